//! Tells listeners what the programs drop, as it happens (ADR 0023).
//!
//! The ring has one reader, whoever listens: it runs while somebody does, and hands each sighting to all. A slow listener loses the oldest and
//! learns how many; it holds up neither the reader nor the programs.

mod packet;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use aya::maps::{Array, Map, MapData, RingBuf};
use netd_common::{
    monitor::{Sighting, program},
    verdict::DropReason,
};
use tokio::{io::unix::AsyncFd, sync::broadcast, task::AbortHandle};

use super::{Error, clock, maps::from_bytes, raw};
pub use packet::Packet;

/// Sightings that a slow listener may be behind.
const BEHIND: usize = 4096;
/// Sightings taken from the ring before other tasks have their turn.
const AT_ONCE: usize = 256;

/// A packet that a program has dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drop {
    /// When, in nanoseconds since the epoch.
    pub time_nano: i64,
    /// Why.
    pub reason: DropReason,
    /// The program that dropped it.
    pub program: &'static str,
    /// The device that it arrived on, or was to leave by.
    pub ifindex: u32,
    /// The device by which it entered the host; 0: the host made it.
    pub ingress: u32,
    /// Its length in bytes, with the Ethernet header if the device has one.
    pub length: u32,
    /// The mark that others have given it.
    pub mark: u32,
    /// Packets with its reason, on its device, since the last one that was told.
    pub unseen: u32,
    /// What its headers say.
    pub packet: Packet,
}

/// What listens to the programs of one instance; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Monitor {
    /// Where the maps are pinned.
    pins: PathBuf,
    /// The reader, while somebody listens.
    running: Arc<Mutex<Option<Running>>>,
}

#[derive(Debug)]
struct Running {
    listeners: usize,
    told: broadcast::Sender<Arc<Drop>>,
    reader: AbortHandle,
}

/// Receives what is dropped from now on; the programs tell nothing any more when the last one is gone.
#[derive(Debug)]
pub struct Listener {
    monitor: Monitor,
    told: broadcast::Receiver<Arc<Drop>>,
}

impl Monitor {
    /// Makes one for the maps in this directory. An earlier daemon may have left the programs talking: they stop.
    ///
    /// # Errors
    /// Names the map and the kernel's reason.
    pub(super) fn of(pins: &Path) -> Result<Self, Error> {
        let monitor = Self { pins: pins.to_owned(), running: Arc::default() };
        monitor.have_told(false)?;
        Ok(monitor)
    }

    /// Begins to listen. Has to be called within the daemon's runtime.
    ///
    /// # Errors
    /// Names the map and the kernel's reason.
    pub fn listen(&self) -> Result<Listener, Error> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let told = if let Some(running) = running.as_mut().filter(|running| !running.reader.is_finished()) {
            running.listeners += 1;
            running.told.subscribe()
        } else {
            let (sender, receiver) = broadcast::channel(BEHIND);
            let reader = tokio::spawn(read(self.ring()?, sender.clone())).abort_handle();
            let before = running.take().map_or(0, |dead| dead.listeners);
            *running = Some(Running { listeners: before + 1, told: sender, reader });
            receiver
        };
        drop(running);
        let listener = Listener { monitor: self.clone(), told };
        self.have_told(true)?; // the listener's own drop takes it back
        Ok(listener)
    }

    /// Opens the ring, without what nobody has heard.
    fn ring(&self) -> Result<AsyncFd<RingBuf<MapData>>, Error> {
        let mut ring = RingBuf::try_from(Map::RingBuf(self.open("EVENTS")?))
            .map_err(|source| Error::kernel("open map EVENTS".to_owned(), source))?;
        while ring.next().is_some() {}
        raw::readable(ring).map_err(|source| Error::kernel("wait for map EVENTS".to_owned(), source))
    }

    /// Tells the programs whether somebody listens.
    fn have_told(&self, listening: bool) -> Result<(), Error> {
        let failed = |source| Error::kernel("write to map LISTENING".to_owned(), source);
        let mut map: Array<_, u32> = Array::try_from(Map::Array(self.open("LISTENING")?)).map_err(failed)?;
        map.set(0, u32::from(listening), 0).map_err(failed)
    }

    fn open(&self, name: &str) -> Result<MapData, Error> {
        MapData::from_pin(self.pins.join(name))
            .map_err(|source| Error::kernel(format!("open the pinned map {name}"), source))
    }
}

impl Listener {
    /// Waits for the next drop. The error says how many were lost, because this came too late for them. None: there is nothing more to come.
    pub async fn next(&mut self) -> Option<Result<Arc<Drop>, u64>> {
        match self.told.recv().await {
            Ok(drop) => Some(Ok(drop)),
            Err(broadcast::error::RecvError::Lagged(lost)) => Some(Err(lost)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

impl std::ops::Drop for Listener {
    fn drop(&mut self) {
        let mut running = self.monitor.running.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(left) = running.as_mut() else { return };
        left.listeners -= 1;
        if left.listeners == 0 {
            left.reader.abort();
            *running = None;
            // Gone with the pins, or told in vain until the next listener: the ring fills, and nothing else happens.
            if let Err(error) = self.monitor.have_told(false) {
                tracing::debug!(%error, "programs not told to be quiet");
            }
        }
    }
}

/// Hands on what the programs tell.
async fn read(mut ring: AsyncFd<RingBuf<MapData>>, told: broadcast::Sender<Arc<Drop>>) {
    loop {
        let Ok(mut ready) = ring.readable_mut().await else { return };
        for turn in 1.. {
            let Some(record) = ready.get_inner_mut().next() else { break };
            if let Some(drop) = sighted(&record) {
                let _ = told.send(Arc::new(drop)); // the last listener may just have left
            }
            std::mem::drop(record);
            if turn % AT_ONCE == 0 {
                tokio::task::yield_now().await;
            }
        }
        ready.clear_ready();
    }
}

/// Reads a record. None: it is of a program that says what this daemon does not know.
fn sighted(record: &[u8]) -> Option<Drop> {
    if record.len() != size_of::<Sighting>() {
        return None;
    }
    let told: Sighting = from_bytes(record);
    let reason = DropReason::ALL.iter().find(|reason| **reason as u8 == told.reason)?;
    let bytes = told.bytes.get(..usize::from(told.captured))?;
    let bare = told.program == program::TO_BARE_UPLINK;
    Some(Drop {
        time_nano: on_the_wall(told.at),
        reason: *reason,
        program: program::NAMES.get(usize::from(told.program)).copied()?,
        ifindex: told.ifindex,
        ingress: told.ingress,
        length: told.length,
        mark: told.mark,
        unseen: told.unseen,
        packet: Packet::read(bytes, bare),
    })
}

/// Converts nanoseconds of the host's monotonic clock to nanoseconds since the epoch.
fn on_the_wall(monotonic: u64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
    let age = clock::nanos() - i128::from(monotonic);
    i64::try_from(now).map_or(0, |now| now.saturating_sub(i64::try_from(age).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::{super::maps::bytes_of, *};

    fn dropped(time_nano: i64) -> Arc<Drop> {
        Arc::new(Drop {
            time_nano,
            reason: DropReason::Icc,
            program: "from_endpoint",
            ifindex: 1,
            ingress: 1,
            length: 60,
            mark: 0,
            unseen: 0,
            packet: Packet::default(),
        })
    }

    #[tokio::test]
    async fn a_slow_listener_learns_how_many_it_has_missed_and_the_others_miss_nothing() {
        let (sender, slow) = broadcast::channel(BEHIND);
        let listen = |told| Listener { monitor: Monitor::default(), told };
        let (mut slow, mut quick) = (listen(slow), listen(sender.subscribe()));
        let all = i64::try_from(BEHIND).expect("few") + 10;
        for number in 0..all {
            sender.send(dropped(number)).expect("two listen");
            let heard = quick.next().await.expect("the sender is there").expect("nothing is missed");
            assert_eq!(heard.time_nano, number);
        }
        assert_eq!(slow.next().await, Some(Err(10)));
        assert_eq!(slow.next().await.expect("there is more").expect("the rest").time_nano, 10);
        drop(sender);
        let mut rest = 0;
        while slow.next().await.is_some() {
            rest += 1;
        }
        assert_eq!(rest, BEHIND - 1);
    }

    #[test]
    fn a_record_is_read_as_the_program_wrote_it() {
        let mut told = Sighting {
            at: 0,
            ifindex: 7,
            ingress: 9,
            length: 1500,
            unseen: 3,
            mark: 0x10,
            captured: 0,
            reason: DropReason::Icc as u8,
            program: program::TO_UPLINK,
            bytes: [0; netd_common::monitor::CAPTURED],
        };
        let read = sighted(bytes_of(&told)).expect("a whole record");
        assert_eq!((read.reason, read.program, read.ifindex), (DropReason::Icc, "to_uplink", 7));
        assert_eq!((read.ingress, read.length, read.unseen, read.mark), (9, 1500, 3, 0x10));
        assert_eq!(read.packet, Packet::default());
        assert!(sighted(&bytes_of(&told)[1..]).is_none(), "not a record");
        told.captured = u16::MAX;
        assert!(sighted(bytes_of(&told)).is_none(), "more bytes than there are");
        (told.captured, told.reason) = (0, 0);
        assert!(sighted(bytes_of(&told)).is_none(), "a reason of a later program");
    }
}
