//! A data directory as the tools see it: opened read-only and without its lock, so that a
//! forebay may be running on it meanwhile.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::cursor;
use super::directory::{DirectoryError, Identity, known_sinks, read_epochs, sink_directory, sink_part};
use super::listing::QueueFiles;
use super::platform::{Platform, System};
use super::segment_image::{self, Behind, Neighbours, SegmentImage};
use crate::record::Sequence;
use crate::ticket::TicketCodec;

/// Listings of a directory until two in a row are the same.
pub const LISTINGS_MAX: usize = 8;

/// A data directory.
pub struct Survey {
    path: PathBuf,
    /// Who it is.
    pub identity: Identity,
}

/// A queue's directory in it, on some machine.
#[derive(Clone, Debug)]
pub struct QueuePlace<P = System> {
    /// The machine.
    pub platform: P,
    /// The queue's name.
    pub name: String,
    /// Its directory.
    pub directory: PathBuf,
    /// Identifies it in its segments.
    pub id: u64,
    /// Names it in the table `forebay_position` of its main sink.
    pub part: String,
}

/// Where the files of one of a queue's sinks are.
#[derive(Clone, Debug)]
pub struct SinkPlace {
    /// Its name; `None` for the main one.
    pub name: Option<String>,
    /// Its directory.
    pub directory: PathBuf,
    /// Names it in its table `forebay_position`.
    pub part: String,
}

impl Survey {
    /// Looks at a data directory.
    ///
    /// # Errors
    ///
    /// It is none, or its identity cannot be read.
    pub fn open(path: &Path) -> Result<Self, DirectoryError> {
        Ok(Self { path: path.to_owned(), identity: Identity::read(path)? })
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its queues, by name, whether or not a configuration still has them.
    ///
    /// # Errors
    ///
    /// The directory cannot be read.
    pub fn queues(&self) -> io::Result<Vec<QueuePlace>> {
        let mut queues = Vec::new();
        for entry in fs::read_dir(self.path.join("queues"))? {
            let entry = entry?;
            if entry.file_type()?.is_dir()
                && let Some(name) = entry.file_name().to_str()
            {
                queues.push(self.queue(name));
            }
        }
        queues.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(queues)
    }

    /// A queue of this directory; whether it exists is for its listing to say.
    #[must_use]
    pub fn queue(&self, name: &str) -> QueuePlace {
        QueuePlace {
            platform: System,
            name: name.to_owned(),
            directory: self.path.join("queues").join(name),
            id: self.identity.queue_id(name),
            part: self.identity.part(name, None),
        }
    }

    /// Makes the tickets of a queue.
    ///
    /// # Errors
    ///
    /// The queue's epochs cannot be read.
    pub fn tickets(&self, queue: &QueuePlace) -> Result<TicketCodec, DirectoryError> {
        let epochs = read_epochs(&System, &queue.directory)?;
        Ok(TicketCodec::new(&queue.name, self.identity.ticket_secret, epochs))
    }

    /// Bytes of each spare segment.
    ///
    /// # Errors
    ///
    /// The directory cannot be read.
    pub fn spares(&self) -> io::Result<Vec<u64>> {
        let mut spares = Vec::new();
        let entries = match fs::read_dir(self.path.join("pool")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(spares),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            if entry.path().extension().is_some_and(|extension| extension == "seg")
                // It may have been taken since.
                && let Ok(metadata) = entry.metadata()
            {
                spares.push(metadata.len());
            }
        }
        Ok(spares)
    }

    /// The process that holds the directory's lock, as far as the kernel tells us.
    #[must_use]
    pub fn user(&self) -> Option<u32> {
        let lock = fs::metadata(self.path.join("LOCK")).ok()?;
        let (major, minor) = (rustix::fs::major(lock.dev()), rustix::fs::minor(lock.dev()));
        let file = format!("{major:02x}:{minor:02x}:{}", lock.ino());
        let locks = fs::read_to_string("/proc/locks").ok()?;
        // 1: FLOCK  ADVISORY  WRITE 3417 08:01:1234 0 EOF
        locks.lines().find_map(|line| {
            let fields: Vec<_> = line.split_ascii_whitespace().collect();
            let ours = fields.get(1) == Some(&"FLOCK") && fields.get(5) == Some(&file.as_str());
            if ours { fields.get(4)?.parse().ok() } else { None }
        })
    }
}

impl QueuePlace {
    /// The same directory, looked at through another machine.
    #[must_use]
    pub fn on<P: Platform>(self, platform: P) -> QueuePlace<P> {
        let Self { platform: System, name, directory, id, part } = self;
        QueuePlace { platform, name, directory, id, part }
    }
}

impl<P: Platform> QueuePlace<P> {
    /// The queue's files, at one moment: a listing during which segments came and went is taken again.
    ///
    /// # Errors
    ///
    /// The directory cannot be read.
    pub fn files(&self) -> io::Result<QueueFiles> {
        let mut files = QueueFiles::list(&self.platform, &self.directory)?;
        for _ in 0..LISTINGS_MAX {
            let again = QueueFiles::list(&self.platform, &self.directory)?;
            if again == files {
                break;
            }
            files = again;
        }
        Ok(files)
    }

    /// Its sinks, the main one first and then by name, whether or not a configuration still has them.
    ///
    /// # Errors
    ///
    /// The directory cannot be read.
    pub fn sinks(&self) -> io::Result<Vec<SinkPlace>> {
        let main = SinkPlace { name: None, directory: self.directory.clone(), part: self.part.clone() };
        let others = known_sinks(&self.platform, &self.directory)?.into_iter().map(|name| SinkPlace {
            directory: sink_directory(&self.directory, &name),
            part: sink_part(&self.part, &name),
            name: Some(name),
        });
        Ok(std::iter::once(main).chain(others).collect())
    }

    /// Everything up to here is delivered to a sink for certain, as its cursor says. The sink's own
    /// position, which only its database knows, may be further on.
    #[must_use]
    pub fn delivered_min(&self, sink: &SinkPlace) -> Sequence {
        cursor::load(&self.platform, &sink.directory)
    }

    /// Reads the `index`th segment of a listing; `None` if the journal has taken it away meanwhile.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn segment(
        &self,
        files: &QueueFiles,
        index: usize,
        end_byte_before: Option<u64>,
    ) -> io::Result<Option<SegmentImage>> {
        let Some((first_sequence, path)) = files.segments.get(index) else { return Ok(None) };
        let behind = match files.segments.get(index + 1) {
            Some((first, path)) => match Behind::read(&self.platform, *first, path) {
                // If that one is gone, so is this one, as the reading will find.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    Some(Behind { first_sequence: *first, first_byte: None, epoch: None })
                }
                read => Some(read?),
            },
            None => None,
        };
        segment_image::read(&self.platform, self.id, *first_sequence, path, Neighbours { end_byte_before, behind })
    }
}
