//! One pack file: a short header, then frames, only ever appended to.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::frame::HEADER_BYTES as FRAME_HEADER_BYTES;
use crate::{ContentError, Digest, cid_of, digest_of};

/// Magic, format version, pack number, crc32c of the three: little-endian.
pub(crate) const PACK_HEADER_BYTES: u64 = 16;
const MAGIC: [u8; 4] = *b"KPK\n";
const FORMAT_VERSION: u32 = 1;

/// Where an object's frame lies. `length` is the object's, without the frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Location {
    pub pack: u32,
    pub offset: u32,
    pub length: u32,
}

/// What the first bytes of a pack file say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PackHeader {
    Good,
    /// Shorter than a header: the process died while it made the file.
    Torn,
    Damaged,
}

#[derive(Debug)]
pub(crate) struct Pack {
    pub number: u32,
    pub path: PathBuf,
    file: File,
    #[cfg(test)]
    pub faults: faults::Faults,
}

impl Pack {
    pub fn path_in(folder: &Path, number: u32) -> PathBuf {
        folder.join(format!("pack-{number:06}.kpk"))
    }

    /// Makes an empty pack. Leaves no file behind when it fails.
    pub fn create(folder: &Path, number: u32) -> Result<Self, ContentError> {
        let path = Self::path_in(folder, number);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(|source| ContentError::io("create", &path, source))?;
        let pack = Self::new(number, path, file);
        if let Err(error) = pack.write_header() {
            // The first error is the one to report; an empty file left over is taken up by the next start.
            let _ = std::fs::remove_file(&pack.path);
            return Err(error);
        }
        Ok(pack)
    }

    pub fn open(folder: &Path, number: u32, writable: bool) -> Result<Self, ContentError> {
        let path = Self::path_in(folder, number);
        let file = OpenOptions::new()
            .read(true)
            .write(writable)
            .open(&path)
            .map_err(|source| ContentError::io("open", &path, source))?;
        Ok(Self::new(number, path, file))
    }

    fn new(number: u32, path: PathBuf, file: File) -> Self {
        Self {
            number,
            path,
            file,
            #[cfg(test)]
            faults: faults::Faults::default(),
        }
    }

    pub fn write_header(&self) -> Result<(), ContentError> {
        let mut header = [0; PACK_HEADER_BYTES as usize];
        header[0..4].copy_from_slice(&MAGIC);
        header[4..8].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        header[8..12].copy_from_slice(&self.number.to_le_bytes());
        let checksum = crc32c::crc32c(&header[0..12]);
        header[12..16].copy_from_slice(&checksum.to_le_bytes());
        self.append(&header, 0)
    }

    /// Checks the header.
    ///
    /// # Errors
    /// [`ContentError::NewerFormat`]; a damaged header is an answer, because the frames after it are still good.
    pub fn read_header(&self) -> Result<PackHeader, ContentError> {
        if self.length()? < PACK_HEADER_BYTES {
            return Ok(PackHeader::Torn);
        }
        let mut header = [0; PACK_HEADER_BYTES as usize];
        self.read(&mut header, 0)?;
        let number = |at: usize| {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        if header[0..4] != MAGIC
            || number(12) != crc32c::crc32c(&header[0..12])
            || number(8) != self.number
        {
            return Ok(PackHeader::Damaged);
        }
        if number(4) > FORMAT_VERSION {
            return Err(ContentError::NewerFormat {
                file: self.path.clone(),
                found: number(4),
                supported: FORMAT_VERSION,
            });
        }
        Ok(PackHeader::Good)
    }

    pub fn length(&self) -> Result<u64, ContentError> {
        let metadata = self
            .file
            .metadata()
            .map_err(|source| ContentError::io("ask for the size of", &self.path, source))?;
        Ok(metadata.len())
    }

    pub fn read(&self, into: &mut [u8], offset: u64) -> Result<(), ContentError> {
        self.file
            .read_exact_at(into, offset)
            .map_err(|source| ContentError::io("read", &self.path, source))
    }

    /// The object at `location`, with its digest checked.
    pub fn read_object(&self, location: Location, digest: &Digest) -> Result<Bytes, ContentError> {
        let altered = |reason: &str| ContentError::Altered {
            cid: cid_of(digest),
            file: self.path.clone(),
            offset: location.offset.into(),
            reason: reason.into(),
        };
        let mut bytes = vec![0; location.length as usize];
        let from = u64::from(location.offset) + FRAME_HEADER_BYTES as u64;
        match self.file.read_exact_at(&mut bytes, from) {
            Ok(()) if digest_of(&bytes) == *digest => Ok(bytes.into()),
            Ok(()) => Err(altered("the bytes do not have this digest")),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(altered("the file ends before the object does"))
            }
            Err(source) => Err(ContentError::io("read", &self.path, source)),
        }
    }

    /// Writes `bytes` at `offset`. After an error the file may hold a part of them: [`cut`](Self::cut) it.
    pub fn append(&self, bytes: &[u8], offset: u64) -> Result<(), ContentError> {
        #[cfg(test)]
        self.faults
            .before_append(&self.file, bytes, offset)
            .map_err(|source| ContentError::io("append to", &self.path, source))?;
        self.file
            .write_all_at(bytes, offset)
            .map_err(|source| ContentError::io("append to", &self.path, source))
    }

    pub fn cut(&self, length: u64) -> Result<(), ContentError> {
        #[cfg(test)]
        self.faults
            .before_cut()
            .map_err(|source| ContentError::io("cut the torn tail of", &self.path, source))?;
        self.file
            .set_len(length)
            .map_err(|source| ContentError::io("cut the torn tail of", &self.path, source))
    }

    pub fn sync(&self) -> Result<(), ContentError> {
        #[cfg(test)]
        self.faults
            .before_sync()
            .map_err(|source| ContentError::io("flush", &self.path, source))?;
        // The size that reads need is part of what fdatasync writes.
        self.file
            .sync_data()
            .map_err(|source| ContentError::io("flush", &self.path, source))
    }
}

/// Makes the names in `folder` durable.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), ContentError> {
    File::open(folder)
        .and_then(|file| file.sync_all())
        .map_err(|source| ContentError::io("flush the folder", folder, source))
}

/// Failing disks for the unit tests: half-written appends, cuts and flushes that fail.
#[cfg(test)]
pub(crate) mod faults {
    use std::fs::File;
    use std::io;
    use std::os::unix::fs::FileExt;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[derive(Debug, Default)]
    pub struct Faults {
        pub disk_full: AtomicBool,
        pub cut_fails: AtomicBool,
        pub sync_fails: AtomicBool,
    }

    impl Faults {
        pub fn before_append(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
            if self.disk_full.load(Ordering::SeqCst) {
                file.write_all_at(&bytes[..bytes.len() / 2], offset)?;
                return Err(io::ErrorKind::StorageFull.into());
            }
            Ok(())
        }

        pub fn before_cut(&self) -> io::Result<()> {
            Self::fail(&self.cut_fails)
        }

        pub fn before_sync(&self) -> io::Result<()> {
            Self::fail(&self.sync_fails)
        }

        fn fail(flag: &AtomicBool) -> io::Result<()> {
            if flag.load(Ordering::SeqCst) {
                return Err(io::Error::other("injected"));
            }
            Ok(())
        }
    }
}
