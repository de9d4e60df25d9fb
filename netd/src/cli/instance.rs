//! Whether the instance that a sandbox belongs to is still there.
//!
//! Its run directory holds the sandboxes' namespaces and outlives daemons; `netd down` removes it with all that is in it.

use std::{
    io,
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::api::Client;

/// The instance that a client speaks to, known by its run directory.
#[derive(Debug)]
pub(super) struct Instance {
    run_dir: Option<PathBuf>,
    /// Its device and inode, where it was there: another one may take its path.
    identity: Option<(u64, u64)>,
    news: Option<Inotify>,
}

impl Instance {
    /// Returns the client's instance, to be asked now and then.
    pub(super) fn of(client: &Client) -> Self {
        let run_dir = client.socket().parent().map(PathBuf::from);
        let identity = run_dir.as_ref().and_then(|dir| identity(dir).ok());
        Self { run_dir, identity, news: None }
    }

    /// Returns the client's instance, with news of its end. Where the kernel gives none, its end goes unnoticed.
    pub(super) fn watch(client: &Client) -> Self {
        let mut instance = Self::of(client);
        let news = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK);
        // The directory itself tells of its end only when the last file below it is closed, which may be the command's log.
        if let (Ok(news), Some(parent)) = (news, instance.run_dir.as_ref().and_then(|dir| dir.parent()))
            && news.add_watch(parent, AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM).is_ok()
        {
            instance.news = Some(news);
        }
        instance
    }

    /// Whether it is there no more.
    pub(super) fn is_gone(&self) -> bool {
        if let Some(news) = &self.news {
            let _ = news.read_events(); // a name next to it may have gone as well
        }
        match self.run_dir.as_deref().map(identity) {
            Some(Ok(present)) => self.identity.is_some_and(|known| known != present),
            // Only what is certainly missing: a directory may also be out of reach for this user.
            Some(Err(error)) => error.kind() == io::ErrorKind::NotFound,
            None => false,
        }
    }

    /// Becomes readable when it may have gone.
    pub(super) fn news(&self) -> Option<BorrowedFd<'_>> {
        self.news.as_ref().map(|news| news.as_fd())
    }
}

fn identity(dir: &Path) -> io::Result<(u64, u64)> {
    let present = std::fs::metadata(dir)?;
    Ok((present.dev(), present.ino()))
}
