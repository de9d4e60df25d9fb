//! The network `bridge` as Docker's daemon options shape it.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

use super::{Error, file::File};
use crate::{
    controller::{CreateNetwork, PoolRequest},
    model::BridgeOptions,
};

/// Turns Docker's daemon options into a request for the network `bridge` (Docker semantics A1, A3 to A7, A16).
pub(super) fn request(file: &File) -> Result<CreateNetwork, Error> {
    let pools = [
        pool("bip", "fixed-cidr", file.bip, file.fixed_cidr, file.default_gateway.map(IpAddr::V4))?,
        pool(
            "bip6",
            "fixed-cidr-v6",
            file.bip6,
            file.fixed_cidr_v6,
            file.default_gateway_v6.map(IpAddr::V6),
        )?,
    ];
    let mut options = BTreeMap::new();
    let mut set = |key: &str, value: Option<String>| {
        options.extend(value.map(|value| (key.to_owned(), value)));
    };
    set(BridgeOptions::ENABLE_ICC, file.icc.map(|on| on.to_string()));
    set(BridgeOptions::ENABLE_IP_MASQUERADE, file.ip_masq.map(|on| on.to_string()));
    set(BridgeOptions::HOST_BINDING, file.ip.map(|ip| ip.to_string()));
    set(BridgeOptions::MTU, file.mtu.map(|mtu| mtu.to_string()));
    Ok(CreateNetwork {
        name: "bridge".to_owned(),
        ipv6: file.ipv6,
        pools: pools.into_iter().flatten().collect(),
        options,
        ..CreateNetwork::default()
    })
}

/// `bip` is subnet and bridge address in one; a fixed CIDR is its range, or the subnet where there is no `bip` (A3).
fn pool(
    bip_key: &str,
    cidr_key: &str,
    bip: Option<IpNet>,
    fixed_cidr: Option<IpNet>,
    default_gateway: Option<IpAddr>,
) -> Result<Option<PoolRequest>, Error> {
    let subnet = match (bip, fixed_cidr) {
        (Some(bip), _) if bip.addr() == bip.network() && bip.prefix_len() < bip.max_prefix_len() - 1 => {
            let why = format!("{bip_key}: {bip} is a subnet; give the bridge's address in it");
            return Err(Error::Value(why));
        }
        (Some(bip), _) => bip.trunc(),
        (None, Some(cidr)) => cidr,
        (None, None) => return Ok(None),
    };
    let family = |prefix: IpNet| prefix.addr().is_ipv6();
    if let Some(cidr) = fixed_cidr.filter(|cidr| family(*cidr) != family(subnet)) {
        return Err(Error::Value(format!("{cidr_key}: {cidr} is of another family than {bip_key}")));
    }
    let aux_name = if family(subnet) { "DefaultGatewayIPv6" } else { "DefaultGatewayIPv4" };
    Ok(Some(PoolRequest {
        subnet: Some(subnet),
        ip_range: fixed_cidr.filter(|_| bip.is_some()),
        gateway: bip.map(|bip| bip.addr()),
        aux: default_gateway.map(|gateway| (aux_name.to_owned(), gateway)).into_iter().collect(),
    }))
}
