//! Puts programs on interfaces and on the cgroup, so that they outlive the daemon and are replaced without a gap.
//!
//! A link is pinned as `links/<interface index>-<program>`. Where a pin exists, its program is replaced in place (`BPF_LINK_UPDATE`): packets see
//! the old program or the new one, never none. Without TCX the programs are clsact filters of a fixed priority, which persist by themselves.
//!
//! To attach by TCX the kernel waits for an RCU grace period with the rtnl lock held (`tcx_entry_sync`), 10 ms and more for each program. So
//! `to_endpoint` is always a filter: packets that netd moves do not pass this gate (ADR 0007). And `from_endpoint` is one at first, until it is promoted
//! while nobody waits (ADR 0028).

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use aya::programs::{
    CgroupAttachMode, LinkOrder, ProgramError, SchedClassifier, TcAttachType,
    links::FdLink,
    tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle},
};

use super::{
    AttachMode, Error, TcxOrder, netkit,
    programs::{INPUT_PROGRAM, Programs, SOCKET_PROGRAMS},
    raw,
};

/// Priority of netd's clsact filters: high enough to leave room before, never 1, which others take (datadog-agent #13692).
pub(super) const FILTER_PRIORITY: u16 = 0x6e65;
/// Handle of netd's clsact filters.
pub(super) const FILTER_HANDLE: TcHandle = TcHandle::new(0, 1);

/// Which side of netd an interface is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The host side of an endpoint's veth: netd's own, so its programs run first.
    Endpoint,
    /// That of its netkit, which has one program more, where the sandbox sends.
    Netkit,
    /// A device of the host: programs of others run before netd's, unless `tcx_order` says otherwise.
    Uplink,
    /// The same, with packets that begin with IP.
    BareUplink,
    /// `lo`.
    Loopback,
}

impl Side {
    /// Every set of hooks: a netkit's host side has those of a veth's.
    const ALL: [Self; 4] = [Self::Endpoint, Self::Uplink, Self::BareUplink, Self::Loopback];

    /// Returns (program, direction) of each hook. A veth's ingress is what its sandbox sends.
    pub(super) const fn hooks(self) -> &'static [(&'static str, TcAttachType)] {
        match self {
            Self::Endpoint | Self::Netkit => {
                &[("from_endpoint", TcAttachType::Ingress), ("to_endpoint", TcAttachType::Egress)]
            }
            Self::Uplink => &[("from_uplink", TcAttachType::Ingress), ("to_uplink", TcAttachType::Egress)],
            Self::BareUplink => {
                &[("from_bare_uplink", TcAttachType::Ingress), ("to_bare_uplink", TcAttachType::Egress)]
            }
            Self::Loopback => &[("from_loopback", TcAttachType::Ingress)],
        }
    }

    /// Whether a hook is worth a TCX link.
    pub(super) fn takes_tcx(self, direction: TcAttachType) -> bool {
        !(self.is_of_a_sandbox() && matches!(direction, TcAttachType::Egress))
    }

    /// Whether it is a sandbox's, whose creation is not to wait for a link.
    pub(super) fn is_of_a_sandbox(self) -> bool {
        matches!(self, Self::Endpoint | Self::Netkit)
    }

    pub(super) fn order(self, uplinks: TcxOrder) -> LinkOrder {
        match self {
            Self::Endpoint | Self::Netkit => LinkOrder::first(),
            Self::Uplink | Self::BareUplink => uplinks.link_order(),
            Self::Loopback => LinkOrder::last(),
        }
    }
}

/// Returns the pin of a program's link.
pub(super) fn pin(links: &Path, ifindex: u32, program: &str) -> PathBuf {
    links.join(format!("{ifindex}-{program}"))
}

/// Whether an earlier daemon left a link of this side on an interface.
pub fn is_attached(links: &Path, side: Side, ifindex: u32) -> bool {
    side.hooks().iter().any(|(program, _)| pin(links, ifindex, program).exists())
}

/// Lists the programs of a side whose links are detached, or not pinned any more. Of filters nothing is said; `Tc`: all are.
pub fn missing(links: &Path, side: Side, ifindex: u32, mode: AttachMode) -> Vec<&'static str> {
    let linked =
        side.hooks().iter().filter(|(_, direction)| mode != AttachMode::Tc && side.takes_tcx(*direction));
    let sends = (side == Side::Netkit).then_some(netkit::PROGRAM);
    let all = linked.map(|(program, _)| *program).chain(sends);
    all.filter(|program| !is_linked(&pin(links, ifindex, program))).collect()
}

/// Whether a filter of a side is not there any more; one that is gets this program again.
///
/// # Errors
/// Names the program that cannot be loaded.
pub fn lacks_filter(
    programs: &mut Programs,
    links: &Path,
    side: Side,
    (ifindex, ifname): (u32, &str),
) -> Result<bool, Error> {
    let mut lacks = false;
    for &(program, direction) in side.hooks() {
        if !pin(links, ifindex, program).exists() {
            lacks |= replace_filter(programs.packet(program)?, ifname, direction).is_err();
        }
    }
    Ok(lacks)
}

/// Whether a socket program's link is detached or not pinned any more.
pub fn sockets_missing(links: &Path) -> bool {
    SOCKET_PROGRAMS.iter().any(|program| !is_linked(&links.join(program)))
}

/// Whether a link is pinned here and leads to a hook.
pub(super) fn is_linked(path: &Path) -> bool {
    raw::open_pin(path).is_ok_and(|link| raw::is_attached(link.as_fd()).unwrap_or(false))
}

/// Lists the interfaces that have pins of an endpoint's programs, there or gone.
pub fn endpoints(links: &Path) -> Vec<u32> {
    let names = fs::read_dir(links).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let is_endpoint = |program: &str| {
        program == netkit::PROGRAM || Side::Endpoint.hooks().iter().any(|(name, _)| *name == program)
    };
    let index = |name: &std::ffi::OsStr| {
        let (index, program) = name.to_str()?.split_once('-')?;
        index.parse().ok().filter(|_| is_endpoint(program))
    };
    names.filter_map(|name| index(&name)).collect()
}

/// Puts the programs of a side on an interface, which is known to have them or not. Returns the mode that worked.
///
/// # Errors
/// Names the program and the interface.
pub fn interface(
    programs: &mut Programs,
    links: &Path,
    side: Side,
    ifname: &str,
    ifindex: u32,
    (mode, mut known): (AttachMode, bool),
) -> Result<AttachMode, Error> {
    let (mut worked, mut has_qdisc) = (mode, false);
    for &(program, direction) in side.hooks() {
        let doing = || format!("attach {program} to {ifname}");
        let path = pin(links, ifindex, program);
        if replace(programs, &path, program)? {
            // An interface that has one of netd's programs has them all, as a rule.
            (worked, known) = (AttachMode::Tcx, true);
            continue;
        }
        let order = side.order(programs.tcx_order());
        let classifier = programs.packet(program)?;
        if worked != AttachMode::Tc && !side.is_of_a_sandbox() {
            match attach_tcx(classifier, ifname, direction, order, &path) {
                Ok(()) => {
                    // What a daemon with `attach = "tc"` has left would see all that the link passes once more.
                    detach_filter(ifname, direction, program);
                    worked = AttachMode::Tcx;
                    continue;
                }
                Err(error) if mode == AttachMode::Auto && error.lacks_tcx() => worked = AttachMode::Tc,
                Err(error) => return Err(Error::Kernel { doing: doing(), source: error.0 }),
            }
        }
        if known && replace_filter(classifier, ifname, direction).is_ok() {
            continue;
        }
        attach_filter(classifier, ifname, direction, has_qdisc)
            .map_err(|error| Error::Kernel { doing: doing(), source: error.0 })?;
        has_qdisc = true;
    }
    if side == Side::Netkit {
        // Last: until then the device drops what the sandbox sends.
        netkit::attach(programs, links, ifname, ifindex)?;
    }
    Ok(worked)
}

/// The kernel's refusal to attach.
pub(super) struct Refused(pub(super) Box<dyn std::error::Error + Send + Sync>);

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Refused {
    fn from(source: E) -> Self {
        Self(Box::new(source))
    }
}

impl Refused {
    /// Whether the kernel has no TCX: it does not know the attach type (EINVAL).
    pub(super) fn lacks_tcx(&self) -> bool {
        let Some(ProgramError::SyscallError(error)) = self.0.downcast_ref() else { return false };
        error.io_error.raw_os_error() == Some(libc::EINVAL)
    }
}

pub(super) fn attach_tcx(
    classifier: &mut SchedClassifier,
    ifname: &str,
    direction: TcAttachType,
    order: LinkOrder,
    path: &Path,
) -> Result<(), Refused> {
    let id = classifier.attach_with_options(ifname, direction, TcAttachOptions::TcxOrder(order))?;
    let link = FdLink::try_from(classifier.take_link(id)?)?;
    link.pin(path)?;
    Ok(())
}

/// Puts a program on a hook by a link of its own, pinned here.
///
/// # Errors
/// The kernel's refusal.
pub(super) fn tcx(
    classifier: &mut SchedClassifier,
    ifname: &str,
    direction: TcAttachType,
    order: LinkOrder,
    path: &Path,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    attach_tcx(classifier, ifname, direction, order, path).map_err(|refused| refused.0)
}

fn attach_filter(
    classifier: &mut SchedClassifier,
    ifname: &str,
    direction: TcAttachType,
    has_qdisc: bool,
) -> Result<(), Refused> {
    if !has_qdisc
        && let Err(error) = tc::qdisc_add_clsact(ifname)
        && !exists(&error)
    {
        return Err(error.into());
    }
    let options = NlOptions { priority: FILTER_PRIORITY, handle: FILTER_HANDLE, ..NlOptions::default() };
    let id = match classifier.attach_with_options(ifname, direction, TcAttachOptions::Netlink(options)) {
        // An earlier daemon's: its program is replaced in place.
        Err(error) if exists(&error) => return replace_filter(classifier, ifname, direction),
        attached => attached?,
    };
    // The filter is to outlive this process; dropping the link would remove it.
    std::mem::forget(classifier.take_link(id)?);
    Ok(())
}

/// Replaces the program of netd's filter in place.
fn replace_filter(
    classifier: &mut SchedClassifier,
    ifname: &str,
    direction: TcAttachType,
) -> Result<(), Refused> {
    let filter = SchedClassifierLink::attached(ifname, direction, FILTER_PRIORITY, FILTER_HANDLE, None)?;
    let id = classifier.attach_to_link(filter)?;
    std::mem::forget(classifier.take_link(id)?);
    Ok(())
}

fn exists(error: &(dyn std::error::Error + 'static)) -> bool {
    is(error, &[libc::EEXIST])
}

/// Whether one of these is what the kernel answered.
pub(super) fn is(error: &(dyn std::error::Error + 'static), errnos: &[i32]) -> bool {
    let mut source = Some(error);
    while let Some(error) = source {
        let errno = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
        if errno.is_some_and(|errno| errnos.contains(&errno)) {
            return true;
        }
        source = error.source();
    }
    false
}

/// Replaces the program of a pinned link. False: there is no pin, or its interface is gone and so is the pin now.
pub(super) fn replace(programs: &mut Programs, path: &Path, program: &str) -> Result<bool, Error> {
    let link = match raw::open_pin(path) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(Error::kernel(format!("open the link {}", path.display()), error)),
    };
    match raw::update_link(link.as_fd(), programs.fd(program)?.as_fd()) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {
            unpin(path)?;
            Ok(false)
        }
        Err(error) => Err(Error::kernel(format!("replace the program of {}", path.display()), error)),
    }
}

/// Interfaces that an earlier daemon served.
#[derive(Debug, Default)]
pub struct Served {
    /// Host sides of endpoints.
    pub endpoints: BTreeSet<u32>,
    /// Uplinks.
    pub uplinks: BTreeSet<u32>,
}

/// Gives a pinned link the program of this netd; a hook that this netd does not use is left.
///
/// # Errors
/// Names the link or the program.
pub fn take_over(programs: &mut Programs, path: &Path, program: &str) -> Result<(), Error> {
    if !programs.has(program) {
        return unpin(path);
    }
    replace(programs, path, program).map(drop)
}

/// Gives the filters that an earlier daemon put where there is no link the programs of this netd.
///
/// # Errors
/// Names the program that cannot be loaded.
pub fn replace_filters(programs: &mut Programs, links: &Path, served: &Served) -> Result<(), Error> {
    for (ifindex, ifname, bare) in interfaces() {
        let side = match ifindex {
            endpoint if served.endpoints.contains(&endpoint) => Side::Endpoint,
            uplink if !served.uplinks.contains(&uplink) => continue,
            _ if bare => Side::BareUplink,
            _ => Side::Uplink,
        };
        for &(program, direction) in side.hooks() {
            if pin(links, ifindex, program).exists() {
                continue;
            }
            let classifier = programs.packet(program)?;
            match replace_filter(classifier, &ifname, direction) {
                Ok(()) => tracing::debug!(ifname, program, "filter replaced"),
                Err(error) => tracing::debug!(ifname, program, error = %error.0, "no filter replaced"),
            }
        }
    }
    Ok(())
}

/// Lists (index, name, whether packets begin with IP) of every interface of this namespace.
fn interfaces() -> Vec<(u32, String, bool)> {
    let addresses = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let link = |address: nix::ifaddrs::InterfaceAddress| {
        let link = *address.address.as_ref()?.as_link_addr()?;
        let ifindex = u32::try_from(link.ifindex()).ok()?;
        Some((ifindex, address.interface_name, link.hatype() != libc::ARPHRD_ETHER))
    };
    addresses.filter_map(link).collect()
}

/// Detaches a pinned link and removes its pin; gone already is fine.
pub(super) fn unpin(path: &Path) -> Result<(), Error> {
    match raw::open_pin(path) {
        Ok(link) => {
            if let Err(error) = raw::detach_link(link.as_fd()) {
                // Its interface has gone, and the program with it.
                tracing::debug!(path = %path.display(), %error, "link not detached");
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => tracing::debug!(path = %path.display(), %error, "link not opened"),
    }
    // Whoever could not remove it would leave it to the next start: the operation is taken back with another link, of another name.
    match fs::remove_file(path).or_else(|_| fs::remove_file(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::kernel(format!("remove the pin {}", path.display()), error))
        }
        _ => Ok(()),
    }
}

/// Takes the programs of a side off an interface, which may be gone.
///
/// # Errors
/// Names the first pin that stays; the others are removed all the same.
pub fn detach(links: &Path, side: Side, ifindex: u32) -> Result<(), Error> {
    // First, and whatever the pair was: what it left behind is all that is known of one that has gone.
    let of_a_netkit = side.is_of_a_sandbox().then(|| pin(links, ifindex, netkit::PROGRAM));
    let mut removed = of_a_netkit.map_or(Ok(()), |path| unpin(&path));
    for &(program, direction) in side.hooks() {
        let path = pin(links, ifindex, program);
        if path.exists() {
            removed = removed.and(unpin(&path));
            // One that was being promoted is a filter too.
            if !side.is_of_a_sandbox() {
                continue;
            }
        }
        if let Ok(ifname) = nix::net::if_::if_indextoname(ifindex) {
            detach_filter(&ifname.to_string_lossy(), direction, program);
        }
    }
    removed
}

/// Takes a program's clsact filter off an interface; gone already, with or without the interface, is fine.
fn detach_filter(ifname: &str, direction: TcAttachType, program: &str) {
    match tc::qdisc_detach_program(ifname, direction, program) {
        Ok(()) => tracing::debug!(ifname, program, "filter removed"),
        Err(error) => tracing::debug!(ifname, program, %error, "no filter removed"),
    }
}

/// Takes every pinned link of an instance off its hook.
///
/// # Errors
/// Names the pin that stays.
pub fn detach_links(links: &Path) -> Result<(), Error> {
    let Ok(entries) = fs::read_dir(links) else { return Ok(()) };
    entries.filter_map(Result::ok).try_for_each(|entry| unpin(&entry.path()))
}

/// Takes netd's clsact filters off every interface of this namespace. TCX links go with their pins.
pub fn detach_filters() {
    let Ok(interfaces) = nix::net::if_::if_nameindex() else { return };
    for interface in &interfaces {
        for &(program, direction) in Side::ALL.iter().flat_map(|side| side.hooks()) {
            detach_filter(&interface.name().to_string_lossy(), direction, program);
        }
    }
}

/// Puts the socket programs on the cgroup, replacing those of an earlier start in place.
///
/// # Errors
/// Names the program and the cgroup.
pub fn sockets(programs: &mut Programs, links: &Path, cgroup: &Path) -> Result<(), Error> {
    let root = File::open(cgroup)
        .map_err(|source| Error::kernel(format!("open the cgroup {}", cgroup.display()), source))?;
    for program in SOCKET_PROGRAMS {
        let path = links.join(program);
        if replace(programs, &path, program)? {
            continue;
        }
        let refused = |source: Refused| Error::Kernel {
            doing: format!("attach {program} to the cgroup {}", cgroup.display()),
            source: source.0,
        };
        let attached = programs.socket(program)?;
        let pinned = (|| -> Result<(), Refused> {
            let id = attached.attach(&root, CgroupAttachMode::Single)?;
            FdLink::try_from(attached.take_link(id)?)?.pin(&path)?;
            Ok(())
        })();
        pinned.map_err(refused)?;
    }
    Ok(())
}

/// Puts the program on this namespace that hears what the host's own input rules let through, or takes it away.
///
/// # Errors
/// The kernel's reason.
pub fn input(programs: &mut Programs, links: &Path, wanted: bool) -> Result<(), Error> {
    let path = links.join(INPUT_PROGRAM);
    if !wanted {
        return unpin(&path);
    }
    if is_linked(&path) && replace(programs, &path, INPUT_PROGRAM)? {
        return Ok(());
    }
    unpin(&path)?; // what somebody has detached
    let refused = |source: Refused| Error::Kernel {
        doing: format!("attach {INPUT_PROGRAM} to the network namespace"),
        source: source.0,
    };
    let namespace = File::open("/proc/thread-self/ns/net")
        .map_err(|source| Error::kernel("open this network namespace".to_owned(), source))?;
    let program = programs.input()?;
    let pinned = (|| -> Result<(), Refused> {
        let id = program.attach(&namespace)?;
        FdLink::from(program.take_link(id)?).pin(&path)?;
        Ok(())
    })();
    pinned.map_err(refused)
}

/// Whether the namespace's program is detached or not pinned any more.
pub fn lacks_input(links: &Path) -> bool {
    !is_linked(&links.join(INPUT_PROGRAM))
}
