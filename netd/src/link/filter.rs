//! Filters of the clsact queueing discipline, as they are.

use rtnetlink::packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcMessage, TcOption},
};

use super::{Error, Links};

/// A filter of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Whether it sees what the interface receives; else what it sends.
    pub ingress: bool,
    /// Name of its program, as far as the kernel keeps it; none: it is no eBPF filter.
    pub program: Option<String>,
}

impl Links {
    /// Lists the filters of an interface's clsact, in the order in which packets meet them. One without a clsact has none.
    ///
    /// # Errors
    /// The kernel's refusal, with the interface's index.
    pub async fn filters(&self, ifindex: u32) -> Result<Vec<Filter>, Error> {
        let mut found = Vec::new();
        for (hook, ingress) in [(TcHandle::MIN_INGRESS, true), (TcHandle::MIN_EGRESS, false)] {
            for message in self.filters_of_hook(ifindex.cast_signed(), hook).await? {
                let RouteNetlinkMessage::NewTrafficFilter(filter) = message else { continue };
                // The kernel tells of each priority by itself, before its filters.
                if filter.header.handle != TcHandle::default() {
                    found.push(Filter { ingress, program: program(&filter) });
                }
            }
        }
        Ok(found)
    }

    pub(super) async fn filters_of_hook(
        &self,
        ifindex: i32,
        hook: u16,
    ) -> Result<Vec<RouteNetlinkMessage>, Error> {
        let mut message = TcMessage::with_index(ifindex);
        message.header.parent = TcHandle { major: TcHandle::CLSACT.major, minor: hook };
        let doing = format!("list filters of interface {ifindex}");
        match self.socket.dump(&doing, RouteNetlinkMessage::GetTrafficFilter(message), Some).await {
            // There is no clsact on it.
            Err(error) if error.errno() == Some(libc::EINVAL) => Ok(Vec::new()),
            answer => answer,
        }
    }
}

fn program(filter: &TcMessage) -> Option<String> {
    let options = filter.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    })?;
    options.iter().find_map(|option| match option {
        TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => Some(name.trim_end_matches('\0').to_owned()),
        _ => None,
    })
}
