//! Debian's kernels: which suite has which, fetched by apt, unpacked below `target/vm`.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{command, ui::Task};

/// Where `debian-archive-keyring` puts the keys of every suite.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A kernel of the matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kernel {
    /// Debian 11: too old, and netd has to say so
    #[value(name = "5.10")]
    TooOld,
    /// Debian 12: the floor, without TCX
    #[value(name = "6.1")]
    Floor,
    /// Debian 13
    #[value(name = "6.12")]
    Stable,
    /// Debian unstable: the newest there is
    Newest,
    /// Debian 13 with all of its drivers, such as PPP: only where it is asked for
    #[value(name = "6.12-full")]
    Full,
}

/// A kernel that lies unpacked on disk.
#[derive(Debug, Clone)]
pub struct Unpacked {
    /// As `uname -r` says, such as `6.1.0-50-cloud-amd64`.
    pub release: String,
    /// What the boot loader loads.
    pub image: PathBuf,
    /// `lib/modules/RELEASE`, with `modules.dep`.
    pub modules: PathBuf,
}

impl Kernel {
    /// The matrix, oldest first: kernels for virtual machines, which are small.
    pub const ALL: [Self; 3] = [Self::Floor, Self::Stable, Self::Newest];
    /// The matrix of the tests: what netd refuses is tested too.
    pub const TESTED: [Self; 4] = [Self::TooOld, Self::Floor, Self::Stable, Self::Newest];

    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::TooOld => "5.10",
            Self::Floor => "6.1",
            Self::Stable => "6.12",
            Self::Newest => "newest",
            Self::Full => "6.12-full",
        }
    }

    fn suite(self) -> &'static str {
        match self {
            Self::TooOld => "bullseye",
            Self::Floor => "bookworm",
            Self::Stable | Self::Full => "trixie",
            Self::Newest => "sid",
        }
    }

    /// The package that stands for the latest one of its kind, without the architecture.
    fn package(self) -> &'static str {
        match self {
            Self::TooOld | Self::Floor | Self::Stable | Self::Newest => "linux-image-cloud",
            Self::Full => "linux-image",
        }
    }

    /// Returns the kernel, fetched and unpacked below `cache` unless it is there.
    pub fn fetch(self, cache: &Path, again: bool) -> Result<Unpacked> {
        let dir = cache.join(self.name());
        if again && dir.exists() {
            fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
        }
        if !dir.exists() {
            self.download(&cache.join(format!("{}.apt", self.name())), &dir)?;
        }
        Unpacked::find(&dir)
    }

    fn download(self, apt: &Path, dir: &Path) -> Result<()> {
        let task = Task::start(format!("fetching the kernel {} of Debian {}", self.name(), self.suite()));
        let apt = Apt::of(self.suite(), apt)?;
        command::run_quietly(&task, apt.command("apt-get").arg("update"))?;
        let packages = apt.kernel_packages(self.package())?;
        let debs = apt.root.join("debs");
        fresh_dir(&debs)?;
        command::run_quietly(
            &task,
            apt.command("apt-get").arg("download").args(&packages).current_dir(&debs),
        )?;
        let half = dir.with_extension("new");
        fresh_dir(&half)?;
        for deb in files(&debs)? {
            command::run_quietly(&task, Command::new("dpkg-deb").arg("--extract").arg(deb).arg(&half))?;
        }
        Unpacked::index(&task, &half)?;
        fs::rename(&half, dir).with_context(|| format!("rename {}", half.display()))?;
        task.done();
        Ok(())
    }
}

impl Unpacked {
    fn find(dir: &Path) -> Result<Self> {
        let modules = modules_dir(dir)?;
        let release = modules.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let places = [dir.join(format!("boot/vmlinuz-{release}")), modules.join("vmlinuz")];
        let image = places.into_iter().find(|place| place.exists());
        let image = image.with_context(|| format!("no kernel image below {}", dir.display()))?;
        Ok(Self { release, image, modules })
    }

    /// Makes what the packages' own scripts make on installation: plain modules and their index.
    fn index(task: &Task, dir: &Path) -> Result<()> {
        let modules = modules_dir(dir)?;
        let compressed = Command::new("find").arg(&modules).args(["-name", "*.ko.xz", "-print"]).output()?;
        let compressed = String::from_utf8_lossy(&compressed.stdout).into_owned();
        if !compressed.is_empty() {
            command::run_quietly(
                task,
                Command::new("xz").args(["--decompress", "--threads=2"]).args(compressed.lines()),
            )?;
        }
        let above = modules.ancestors().nth(3).context("modules lie below lib/modules")?;
        let release = modules.file_name().unwrap_or_default();
        let depmod = command::find("depmod", &command::sbin()).context("depmod is not installed")?;
        command::run_quietly(task, Command::new(depmod).arg("--basedir").arg(above).arg(release))
    }
}

/// Returns `lib/modules/RELEASE` below where a kernel was unpacked.
fn modules_dir(dir: &Path) -> Result<PathBuf> {
    for place in ["lib/modules", "usr/lib/modules"] {
        if let Some(found) = files(&dir.join(place)).unwrap_or_default().into_iter().next() {
            return Ok(found);
        }
    }
    bail!("no modules below {}: run again with --fetch", dir.display())
}

fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))?;
    let paths: std::io::Result<Vec<PathBuf>> = entries.map(|entry| Ok(entry?.path())).collect();
    paths.with_context(|| format!("list {}", dir.display()))
}

fn fresh_dir(dir: &Path) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("remove {}", dir.display()))?;
    }
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))
}

/// An apt that knows one suite, from the mirror that this machine uses, and touches nothing of the machine's own.
struct Apt {
    root: PathBuf,
    config: PathBuf,
    /// Debian's name of the architecture.
    architecture: String,
}

impl Apt {
    fn of(suite: &str, root: &Path) -> Result<Self> {
        let targets = command::capture(Command::new("apt-get").args([
            "indextargets",
            "--format",
            "$(REPO_URI) $(RELEASE) $(COMPONENT)",
            "Created-By: Packages",
        ]))?;
        let release = fs::read_to_string("/etc/os-release").context("read /etc/os-release")?;
        let Some(mirror) = mirror(&targets, &release) else {
            bail!("apt has no mirror of Debian here: the kernels are Debian's, run this on Debian");
        };
        ensure!(Path::new(KEYRING).exists(), "{KEYRING} is missing: install debian-archive-keyring");
        for dir in ["lists/partial", "cache/archives/partial"] {
            let dir = root.join(dir);
            fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        }
        let architecture = command::capture(Command::new("dpkg").arg("--print-architecture"))?;
        let apt = Self {
            config: root.join("apt.conf"),
            root: root.to_owned(),
            architecture: architecture.trim().to_owned(),
        };
        let write = |name: &str, text: String| {
            fs::write(root.join(name), text).with_context(|| format!("write {name}"))
        };
        write("sources.list", format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n"))?;
        write("status", String::new())?;
        write("apt.conf", configuration(root))?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", &self.config);
        command
    }

    /// Returns the packages that make up the suite's kernel: later ones are split in several.
    fn kernel_packages(&self, package: &str) -> Result<Vec<String>> {
        let meta = format!("{package}-{}", self.architecture);
        let image =
            dependencies(&self.show(&meta)?).into_iter().find(|name| name.starts_with("linux-image-"));
        let image = image.with_context(|| format!("{meta} depends on no kernel"))?;
        let release = image.trim_start_matches("linux-image-").to_owned();
        let mut all = BTreeSet::new();
        let mut open = vec![image];
        while let Some(package) = open.pop() {
            let more = dependencies(&self.show(&package)?);
            open.extend(more.into_iter().filter(|name| name.ends_with(&release) && !all.contains(name)));
            all.insert(package);
        }
        Ok(all.into_iter().collect())
    }

    fn show(&self, package: &str) -> Result<String> {
        command::capture(self.command("apt-cache").args(["show", "--no-all-versions", package]))
    }
}

/// Returns the mirror that has the machine's own release, of lines `URI RELEASE COMPONENT`.
fn mirror<'a>(targets: &'a str, os_release: &str) -> Option<&'a str> {
    let field = |name: &str| os_release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    if field("ID") != Some("debian") {
        return None;
    }
    let codename = field("VERSION_CODENAME")?.trim_matches('"');
    targets.lines().find_map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
        [uri, release, "main"] if release == codename => Some(uri),
        _ => None,
    })
}

/// Returns the first alternative of each dependency of a package's record.
fn dependencies(record: &str) -> Vec<String> {
    let fields = record.lines().filter_map(|line| line.strip_prefix("Depends: "));
    let all = fields.flat_map(|list| list.split(", "));
    all.filter_map(|one| one.split([' ', '|', ':']).next()).map(str::to_owned).collect()
}

fn configuration(root: &Path) -> String {
    let root = root.display();
    format!(
        r#"Dir::State "{root}";
Dir::State::lists "{root}/lists";
Dir::State::status "{root}/status";
Dir::Cache "{root}/cache";
Dir::Etc::sourcelist "{root}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
APT::Sandbox::User "";
Acquire::Languages "none";
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_the_one_of_the_machines_release() {
        let targets = "http://a/security/ bookworm-security main\nhttp://b/debian/ bookworm contrib\nhttp://b/debian/ bookworm main";
        let release = "NAME=\"Debian GNU/Linux\"\nVERSION_CODENAME=bookworm\nID=debian\n";
        assert_eq!(mirror(targets, release), Some("http://b/debian/"));
        assert_eq!(mirror(targets, "ID=debian\nVERSION_CODENAME=trixie\n"), None);
        assert_eq!(mirror(targets, "ID=ubuntu\nVERSION_CODENAME=bookworm\n"), None);
    }

    #[test]
    fn dependencies_are_names_alone() {
        let record = "Package: linux-image\nDepends: kmod, linux-base (>= 4.3~), dracut | initramfs-tools, linux-binary-7.2 (= 7.2.13-1)\n";
        assert_eq!(dependencies(record), ["kmod", "linux-base", "dracut", "linux-binary-7.2"]);
    }
}
