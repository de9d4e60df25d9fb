//! The queue before the files, and the thread behind it.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use super::{Limits, Record, State, files::Files};

/// Records that may wait for the disk: a thousand answers, some hundreds of kilobytes.
const QUEUE: usize = 1024;
/// How long the end of the daemon waits for the disk.
const PATIENCE: Duration = Duration::from_secs(1);

/// Takes records and never waits.
#[derive(Debug)]
pub struct Log {
    queue: SyncSender<Message>,
    counts: Arc<Counts>,
}

#[derive(Debug)]
enum Message {
    Record(Box<Record>),
    /// Everything before it is written.
    Flush(SyncSender<()>),
}

#[derive(Debug, Default)]
struct Counts {
    records: AtomicU64,
    lost: AtomicU64,
    failure: Mutex<Option<String>>,
}

impl Log {
    /// Starts the thread that writes; a directory that cannot be used loses records, and is no failure.
    ///
    /// # Errors
    /// There is no thread.
    pub fn start(directory: PathBuf, limits: Limits) -> io::Result<Self> {
        let (queue, messages) = sync_channel(QUEUE);
        let counts = Arc::<Counts>::default();
        let writer = Writer { files: Files::new(directory, limits), counts: Arc::clone(&counts), told: 0 };
        thread::Builder::new().name("netd-audit".into()).spawn(move || writer.run(&messages))?;
        Ok(Self { queue, counts })
    }

    /// Writes a record down, or counts it as lost.
    pub fn record(&self, record: Record) {
        if self.queue.try_send(Message::Record(Box::new(record.bounded()))).is_err() {
            self.counts.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How the log is.
    pub fn state(&self) -> State {
        State {
            records: self.counts.records.load(Ordering::Relaxed),
            lost: self.counts.lost.load(Ordering::Relaxed),
            failure: self.counts.failure.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// Waits until what was recorded is written, for a second at most.
    pub fn flush(&self) {
        let (done, written) = sync_channel(1);
        if self.queue.try_send(Message::Flush(done)).is_ok() {
            let _ = written.recv_timeout(PATIENCE); // a disk that hangs keeps nobody from ending
        }
    }
}

struct Writer {
    files: Files,
    counts: Arc<Counts>,
    /// Lost records that a line has told of.
    told: u64,
}

impl Writer {
    fn run(mut self, messages: &Receiver<Message>) {
        while let Ok(message) = messages.recv() {
            match message {
                Message::Record(record) => self.write(*record),
                Message::Flush(done) => {
                    let _ = done.send(()); // whoever asked has stopped waiting
                }
            }
        }
    }

    fn write(&mut self, record: Record) {
        let lost = self.counts.lost.load(Ordering::Relaxed);
        let written = self.files.append(record, lost - self.told);
        let mut failure = self.counts.failure.lock().unwrap_or_else(PoisonError::into_inner);
        match written {
            Ok(()) => {
                self.told = lost;
                self.counts.records.fetch_add(1, Ordering::Relaxed);
                if failure.take().is_some() {
                    tracing::info!(lost, "the audit log is written again");
                }
            }
            Err(error) => {
                self.counts.lost.fetch_add(1, Ordering::Relaxed);
                let why = format!("the audit log cannot be written ({error})");
                if failure.is_none() {
                    tracing::warn!(%error, "the audit log cannot be written; calls go on without");
                }
                *failure = Some(why);
            }
        }
    }
}
