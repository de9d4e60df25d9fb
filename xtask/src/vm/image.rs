//! A guest's root file system: an initramfs of the machine's own programs and libraries, the kernel's modules, and what to run.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use cpio::newc;

use super::modules;
use crate::command;

/// Process 1, where the guest does one step after the other.
pub const INIT: &str = include_str!("init.sh");

/// Programs of the machine that a guest has too; busybox stands for the rest.
const PROGRAMS: [&str; 4] = ["bridge", "busybox", "ip", "tc"];
/// Programs that single tests want, if the machine has them.
const HELPERS: [&str; 1] = ["wg"];
/// Programs that only a benchmark uses, if the machine has them.
const RIVALS: [&str; 9] = [
    "iptables",
    "iptables-legacy-restore",
    "iptables-nft-restore",
    "ip6tables",
    "ip6tables-legacy-restore",
    "ip6tables-nft-restore",
    "iptables-legacy",
    "nft",
    "iperf3",
];

/// What a guest does: a name and a shell command each, in this order.
pub type Steps = Vec<(String, String)>;

/// A file system in the making, written at once.
pub struct Image {
    archive: Archive<BufWriter<File>>,
    /// Where stripped copies of programs are kept.
    scratch: PathBuf,
}

impl Image {
    /// Begins an image with the machine's programs, and with a script that is process 1.
    pub fn create(path: &Path, scratch: &Path, init: &str) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
        fs::create_dir_all(scratch).with_context(|| format!("create {}", scratch.display()))?;
        let mut image = Self { archive: Archive::new(BufWriter::new(file)), scratch: scratch.to_owned() };
        for dir in ["proc", "sys", "dev", "tmp", "run", "root", "etc"] {
            image.archive.dir(Path::new(dir))?;
        }
        for program in PROGRAMS {
            let found = command::find(program, &command::sbin());
            image.program(
                &found.with_context(|| format!("{program} is not installed"))?,
                &format!("usr/bin/{program}"),
            )?;
        }
        for (program, found) in HELPERS.iter().filter_map(|p| Some((p, command::find(p, &command::sbin())?)))
        {
            image.program(&found, &format!("usr/bin/{program}"))?;
        }
        image.applets()?;
        image.archive.file(Path::new("init"), 0o755, init.as_bytes())?;
        Ok(image)
    }

    /// Adds a program without its debug information, with the libraries that it loads.
    pub fn program(&mut self, file: &Path, at: &str) -> Result<()> {
        for library in libraries(file)? {
            self.copy(&library, library.strip_prefix("/").unwrap_or(&library))?;
        }
        let stripped = self.scratch.join(Path::new(at).file_name().unwrap_or_default());
        let mut strip = Command::new("strip");
        let strip = strip.arg("--strip-debug").arg("-o").arg(&stripped).arg(file);
        let plain = if command::capture(strip).is_ok() { stripped.as_path() } else { file };
        self.copy(plain, Path::new(at))
    }

    /// Adds the rivals of a benchmark, and the plugins that iptables loads.
    pub fn rivals(&mut self) -> Result<()> {
        for (program, file) in RIVALS.iter().filter_map(|p| Some((p, command::find(p, &command::sbin())?))) {
            self.program(&file, &format!("usr/sbin/{program}"))?;
        }
        let plugins = Path::new("/usr/lib").join(format!("{}-linux-gnu/xtables", std::env::consts::ARCH));
        for plugin in fs::read_dir(plugins).into_iter().flatten() {
            let plugin = plugin.context("list iptables' plugins")?.path();
            self.copy(&plugin, plugin.strip_prefix("/").unwrap_or(&plugin))?;
        }
        Ok(())
    }

    /// Adds a folder of files, at its own path: tests know theirs by it.
    pub fn folder(&mut self, dir: &Path) -> Result<()> {
        for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
            let path = entry.with_context(|| format!("list {}", dir.display()))?.path();
            if path.is_dir() {
                self.folder(&path)?;
            } else {
                self.copy(&path, path.strip_prefix("/").unwrap_or(&path))?;
            }
        }
        Ok(())
    }

    /// Adds one of the machine's files, at its own path.
    pub fn own_file(&mut self, path: &Path) -> Result<()> {
        self.copy(path, path.strip_prefix("/").unwrap_or(path))
    }

    /// Adds a file with this text.
    pub fn text(&mut self, at: &str, text: &str) -> Result<()> {
        self.archive.file(Path::new(at), 0o644, text.as_bytes())
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, at: &str, target: &str) -> Result<()> {
        self.archive.link(Path::new(at), target)
    }

    /// Adds the modules of a kernel and the order in which they load.
    pub fn modules(&mut self, dir: &Path) -> Result<()> {
        let order = modules::to_load(dir)?;
        for module in &order {
            self.copy(&dir.join(module), &Path::new("lib/modules").join(module))?;
        }
        let list: Vec<String> = order.iter().map(|file| file.display().to_string()).collect();
        self.list("vm/modules", &list)
    }

    /// Ends the image with what the guest does.
    pub fn finish(mut self, steps: &Steps, shell: bool) -> Result<()> {
        let list: Vec<String> = steps.iter().map(|(name, command)| format!("{name} {command}")).collect();
        self.list("vm/steps", &list)?;
        if shell {
            self.archive.file(Path::new("vm/shell"), 0o644, &[])?;
        }
        self.archive.finish()
    }

    /// Writes a file of lines, as the guest's shell reads them.
    fn list(&mut self, at: &str, lines: &[String]) -> Result<()> {
        let text = lines.iter().flat_map(|line| [line, "\n"]).collect::<String>();
        self.archive.file(Path::new(at), 0o644, text.as_bytes())
    }

    fn copy(&mut self, from: &Path, at: &Path) -> Result<()> {
        if self.archive.has(at) {
            return Ok(());
        }
        let bytes = fs::read(from).with_context(|| format!("read {}", from.display()))?;
        self.archive.file(at, 0o755, &bytes)
    }

    /// Links busybox under every name it knows, but for those of real programs.
    fn applets(&mut self) -> Result<()> {
        let list = command::capture(Command::new("busybox").arg("--list"))?;
        for name in list.lines().filter(|name| !PROGRAMS.contains(name)) {
            self.archive.link(&Path::new("bin").join(name), "/usr/bin/busybox")?;
        }
        Ok(())
    }
}

/// Returns the shared objects that a program loads; none of a static one.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("run ldd")?;
    let paths = String::from_utf8_lossy(&output.stdout)
        .split_whitespace()
        .filter(|word| word.starts_with('/') && !word.ends_with(':'))
        .map(PathBuf::from)
        .collect();
    Ok(paths)
}

/// A cpio archive as the kernel unpacks it: directories before what lies in them, every path once, all of it root's.
struct Archive<W: Write> {
    out: W,
    paths: BTreeSet<PathBuf>,
}

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;

impl<W: Write> Archive<W> {
    fn new(out: W) -> Self {
        Self { out, paths: BTreeSet::new() }
    }

    fn has(&self, path: &Path) -> bool {
        self.paths.contains(path)
    }

    fn dir(&mut self, path: &Path) -> Result<()> {
        self.entry(path, DIRECTORY | 0o755, &[])
    }

    fn file(&mut self, path: &Path, mode: u32, bytes: &[u8]) -> Result<()> {
        self.entry(path, REGULAR | mode, bytes)
    }

    fn link(&mut self, path: &Path, target: &str) -> Result<()> {
        self.entry(path, SYMLINK | 0o777, target.as_bytes())
    }

    fn entry(&mut self, path: &Path, mode: u32, bytes: &[u8]) -> Result<()> {
        if path.as_os_str().is_empty() || !self.paths.insert(path.to_owned()) {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.dir(parent)?;
        }
        let size = u32::try_from(bytes.len()).context("a file of 4 GiB and more")?;
        let name = path.to_str().context("a path that is not UTF-8")?;
        let inode = u32::try_from(self.paths.len()).context("too many files")?;
        let header = newc::Builder::new(name).ino(inode).mode(mode).nlink(1);
        let mut entry = header.write(&mut self.out, size);
        entry
            .write_all(bytes)
            .and_then(|()| entry.finish().map(drop))
            .with_context(|| format!("write {name}"))
    }

    fn finish(self) -> Result<()> {
        newc::trailer(self.out).and_then(|mut out| out.flush()).context("end the archive")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (name, mode, content) of every entry.
    fn read(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        loop {
            let mut reader = newc::Reader::new(bytes).expect("an entry");
            if reader.entry().is_trailer() {
                return entries;
            }
            let (name, mode) = (reader.entry().name().to_owned(), reader.entry().mode());
            let mut content = Vec::new();
            std::io::Read::read_to_end(&mut reader, &mut content).expect("its content");
            entries.push((name, mode, content));
            bytes = reader.finish().expect("the next entry");
        }
    }

    #[test]
    fn directories_come_before_their_files_and_once() {
        let mut bytes = Vec::new();
        let mut archive = Archive::new(&mut bytes);
        archive.file(Path::new("usr/bin/netd"), 0o755, b"ELF").expect("write");
        archive.link(Path::new("usr/bin/sh"), "/usr/bin/busybox").expect("write");
        archive.file(Path::new("usr/bin/netd"), 0o755, b"again").expect("write");
        archive.finish().expect("finish");
        let expected = [
            ("usr", 0o040_755, ""),
            ("usr/bin", 0o040_755, ""),
            ("usr/bin/netd", 0o100_755, "ELF"),
            ("usr/bin/sh", 0o120_777, "/usr/bin/busybox"),
        ];
        assert_eq!(read(&bytes), expected.map(|(name, mode, content)| (name.into(), mode, content.into())));
    }
}
