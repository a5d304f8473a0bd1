//! The files that a configuration is read from: those on the disk, or kept copies.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf, absolute};
use std::sync::Arc;

/// Bytes of any file that the configuration is made of. A configuration of 4,000 records is under 1 MiB, and a list of all public
/// certificate authorities a quarter of that; more is another file given by mistake.
const MAX_FILE: u64 = 4 << 20;

/// Whether reading it again would wait for whoever writes to it, for ever.
#[must_use]
pub fn is_pipe(file: &Path) -> bool {
    let kind = fs::metadata(file).map(|metadata| metadata.file_type());
    kind.is_ok_and(|kind| kind.is_fifo() || kind.is_socket())
}

/// Where files are read from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files(Option<Arc<BTreeMap<PathBuf, Vec<u8>>>>);

impl Files {
    /// Kept copies, by absolute path. Other files are read from the disk.
    #[must_use]
    pub fn as_they_were(contents: BTreeMap<PathBuf, Vec<u8>>) -> Self {
        Self(Some(Arc::new(contents)))
    }

    fn as_it_was(&self, file: &Path) -> Option<&Vec<u8>> {
        self.0.as_ref()?.get(&absolute(file).ok()?)
    }

    /// What a file holds; what is beyond `most` octets is not read.
    ///
    /// # Errors
    /// Those of `open(2)` and `read(2)`.
    pub fn read_up_to(&self, file: &Path, most: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        match self.as_it_was(file) {
            Some(content) => content.take(most).read_to_end(&mut bytes)?,
            // Reading a device would never end.
            None => fs::File::open(file)?.take(most).read_to_end(&mut bytes)?,
        };
        Ok(bytes)
    }

    /// What a file holds.
    ///
    /// # Errors
    /// Those of `open(2)` and `read(2)`; `FileTooLarge` if it is larger than 4 MiB; no more than that is read.
    pub fn read(&self, file: &Path) -> io::Result<Vec<u8>> {
        let bytes = self.read_up_to(file, MAX_FILE + 1)?;
        if bytes.len() as u64 > MAX_FILE {
            let text = "it is larger than 4MiB";
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
        }
        Ok(bytes)
    }

    /// What a file of text holds.
    ///
    /// # Errors
    /// Those of `open(2)` and `read(2)`; `InvalidData` if it is not UTF-8.
    pub fn read_text(&self, file: &Path) -> io::Result<String> {
        let text = String::from_utf8(self.read(file)?);
        text.map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
    }

    /// The files in a directory.
    pub(super) fn in_directory(&self, directory: &Path) -> Vec<PathBuf> {
        if let (Some(contents), Ok(absolute)) = (&self.0, absolute(directory)) {
            let names = contents
                .keys()
                .filter(|file| file.parent() == Some(&absolute));
            return names
                .filter_map(|file| Some(directory.join(file.file_name()?)))
                .collect();
        }
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let files = entries.map(|entry| entry.path());
        files.filter(|file| file.is_file()).collect()
    }
}
