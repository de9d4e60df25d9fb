//! `cargo xtask vm systemd`: a guest whose process 1 is systemd runs netd's unit (reliability 8.2, F7).
//!
//! Of the machine's systemd the guest has the manager, its targets and two tools: no journal, no udev, no bus.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use super::{image::Image, report::Report};
use crate::{command, layout::Layout, ui};

/// What runs before systemd, and what runs under it.
pub const INIT: &str = include_str!("systemd-init.sh");
const CHECKS: &str = include_str!("systemd.sh");
/// The tools, and the Debian package they come in.
pub const PROGRAMS: [(&str, &str); 2] = [("systemctl", "systemd"), ("systemd-analyze", "systemd")];
/// Where Debian has the manager and its units.
const MANAGER: &str = "/lib/systemd/systemd";
const UNITS: &str = "/lib/systemd/system";
/// A unit for the checks; systemd starts it when it has started all else.
const CHECKS_UNIT: &str = "[Unit]\nDescription=Checks of netd's unit\n\n[Service]\nExecStart=/bin/sh /vm/systemd.sh\nKillMode=none\n";
/// What differs for netd in the guest: there is no journal, and an emulated processor is slow.
const NETD_DROP_IN: &str = "[Service]\nStandardOutput=append:/tmp/netd.log\nStandardError=inherit\nTimeoutStartSec=300\nTimeoutStopSec=60\n";

/// Adds systemd, netd's unit and the checks to an image.
pub fn add(image: &mut Image, layout: &Layout) -> Result<()> {
    image.program(Path::new(MANAGER), MANAGER.trim_start_matches('/'))?;
    for (program, package) in PROGRAMS {
        let found = command::find(program, &command::sbin());
        image.program(
            &found.with_context(|| format!("{program} of {package} is not installed"))?,
            &format!("usr/bin/{program}"),
        )?;
    }
    for entry in fs::read_dir(UNITS).with_context(|| format!("list {UNITS}"))? {
        let path = entry.with_context(|| format!("list {UNITS}"))?.path();
        let is_target = path.extension().is_some_and(|extension| extension == "target");
        if is_target && !path.is_symlink() {
            image.own_file(&path)?;
        }
    }
    let unit =
        fs::read_to_string(layout.root().join("netd/dist/netd.service")).context("read netd's unit")?;
    let local = "etc/systemd/system";
    image.text(&format!("{local}/netd.service"), &unit)?;
    image.text(&format!("{local}/netd.service.d/guest.conf"), NETD_DROP_IN)?;
    image.text(&format!("{local}/checks.service"), CHECKS_UNIT)?;
    image.link(&format!("{local}/multi-user.target.wants/checks.service"), "../checks.service")?;
    image.link(&format!("{local}/default.target"), &format!("{UNITS}/multi-user.target"))?;
    // Without one, every boot is a first boot.
    image.text("etc/machine-id", "0123456789abcdef0123456789abcdef\n")?;
    image.text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")?;
    image.text("etc/group", "root:x:0:\n")?;
    image.text("vm/systemd.sh", CHECKS)?;
    image.text("var/run/.keep", "")?;
    image.text("var/lib/.keep", "")?;
    image.link("usr/sbin/netd", "/usr/bin/netd")
}

/// Prints what came of a guest; of what failed, all it wrote.
pub fn show(report: &Report, log: &Path) {
    let Some(release) = &report.release else {
        println!("systemd did not come up: see {}", log.display());
        return;
    };
    for step in &report.steps {
        let passed = step.code == Some(0);
        let mark = if passed { ui::paint("32", "✓") } else { ui::paint("31", "✗") };
        let said = if passed { step.output.trim_end() } else { "" };
        println!("{mark} {:<9} {:>6.1} s  {said}", step.name, step.seconds);
        if !passed {
            print!("{}", step.output);
        }
    }
    if !report.complete {
        println!("{} {release}: not all checks ran: see {}", ui::paint("31", "✗"), log.display());
    }
}
