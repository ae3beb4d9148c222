//! A tar, entry by entry, as it stands in foreign bytes. Joins the headers of long names itself, within a budget;
//! `tar::Archive` takes extension headers of any size.

use std::io::{self, ErrorKind, Read};
use tar::{EntryType, Header};

/// The longest name of an entry, in bytes.
const LONGEST_NAME: u64 = 4096;
/// The longest extension header.
const LONGEST_PAX: u64 = 1 << 20;

/// One entry, before its content.
#[derive(Debug)]
pub struct Entry {
    pub name: Vec<u8>,
    pub link: Vec<u8>,
    pub kind: EntryType,
    pub size: u64,
}

/// What is wrong with a tar.
#[derive(Debug)]
pub enum Fault {
    /// It could not be read.
    Io(io::Error),
    /// It is no tar, or no whole one.
    Tar(&'static str),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Fault {
        match error.kind() {
            ErrorKind::UnexpectedEof => Fault::Tar("it ends too early"),
            _ => Fault::Io(error),
        }
    }
}

/// A reader of entries. After [`Blocks::next`] the caller takes the content with [`Blocks::content`].
pub struct Blocks<R> {
    from: R,
    /// Where the next byte stands.
    pub at: u64,
    /// Whether a tar may end without its end mark: Go's readers take that, so layers of that kind exist.
    lenient: bool,
}

impl<R: Read> Blocks<R> {
    pub fn new(from: R, lenient: bool) -> Blocks<R> {
        Blocks { from, at: 0, lenient }
    }

    pub fn get_mut(&mut self) -> &mut R {
        &mut self.from
    }

    /// The next entry; `None` at the end mark.
    pub fn next(&mut self) -> Result<Option<Entry>, Fault> {
        let (mut name, mut link, mut size) = (None, None, None);
        loop {
            let Some(header) = self.header()? else {
                return if name.is_none() && link.is_none() { Ok(None) } else { Err(Fault::Tar("it ends too early")) };
            };
            let own = header.entry_size().map_err(|_| Fault::Tar("a size that is no number"))?;
            match header.entry_type() {
                EntryType::GNULongName => name = Some(self.text(own)?),
                EntryType::GNULongLink => link = Some(self.text(own)?),
                EntryType::XGlobalHeader => drop(self.small(own, LONGEST_PAX)?),
                EntryType::XHeader => {
                    for (key, value) in pax(&self.small(own, LONGEST_PAX)?)? {
                        match key.as_slice() {
                            b"path" => name = Some(value),
                            b"linkpath" => link = Some(value),
                            b"size" => {
                                let number = std::str::from_utf8(&value).ok().and_then(|text| text.parse().ok());
                                size = Some(number.ok_or(Fault::Tar("a size that is no number"))?);
                            }
                            key if key.starts_with(b"GNU.sparse") => return Err(Fault::Tar("a sparse file")),
                            _ => {}
                        }
                    }
                }
                EntryType::GNUSparse => return Err(Fault::Tar("a sparse file")),
                kind => {
                    let name = name.unwrap_or_else(|| header.path_bytes().into_owned());
                    let link = link.or_else(|| header.link_name_bytes().map(|link| link.into_owned()));
                    if name.len() as u64 > LONGEST_NAME {
                        return Err(Fault::Tar("a name that is too long"));
                    }
                    let kind = match kind {
                        // What some writers leave out, and an old name of a file.
                        EntryType::Continuous => EntryType::Regular,
                        EntryType::Regular if name.ends_with(b"/") => EntryType::Directory,
                        kind => kind,
                    };
                    let has_content = matches!(kind, EntryType::Regular);
                    let size = size.unwrap_or(own);
                    if !has_content && size > 0 && kind != EntryType::Link {
                        return Err(Fault::Tar("content where none can be"));
                    }
                    // A hard link's size is that of what it links to; no content follows.
                    let size = if has_content { size } else { 0 };
                    return Ok(Some(Entry { name, link: link.unwrap_or_default(), kind, size }));
                }
            }
        }
    }

    fn header(&mut self) -> Result<Option<Header>, Fault> {
        let mut header = Header::new_old();
        let block = header.as_mut_bytes();
        let mut filled = 0;
        while filled < block.len() {
            match self.from.read(&mut block[filled..]) {
                Ok(0) if filled == 0 && self.lenient && self.at > 0 => return Ok(None),
                Ok(0) => return Err(Fault::Tar("it ends too early")),
                Ok(count) => filled += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.at += 512;
        let bytes = header.as_bytes();
        if bytes.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        // As tar(5): the sum of all bytes with spaces where the sum stands; some old writers took them as signed.
        let around = || bytes[..148].iter().chain(&bytes[156..]);
        let sum: u32 = around().map(|b| u32::from(*b)).sum::<u32>() + 8 * 32;
        let signed: i32 = around().map(|b| i32::from(*b as i8)).sum::<i32>() + 8 * 32;
        match header.cksum() {
            Ok(said) if said == sum || i64::from(said) == i64::from(signed) => Ok(Some(header)),
            _ => Err(Fault::Tar("a header whose checksum is wrong")),
        }
    }

    fn text(&mut self, size: u64) -> Result<Vec<u8>, Fault> {
        let mut text = self.small(size, LONGEST_NAME + 1)?;
        text.truncate(text.iter().position(|b| *b == 0).unwrap_or(text.len()));
        Ok(text)
    }

    fn small(&mut self, size: u64, most: u64) -> Result<Vec<u8>, Fault> {
        if size > most {
            return Err(Fault::Tar("an extension header that is too long"));
        }
        let mut bytes = Vec::with_capacity(size as usize);
        self.content(size, |chunk| {
            bytes.extend_from_slice(chunk);
            Ok(())
        })?;
        Ok(bytes)
    }

    /// Hands the content of an entry on and steps over the padding.
    pub fn content(&mut self, size: u64, mut each: impl FnMut(&[u8]) -> io::Result<()>) -> Result<(), Fault> {
        let mut buffer = [0; 1 << 15];
        let mut left = size;
        while left > 0 {
            let want = left.min(buffer.len() as u64) as usize;
            self.from.read_exact(&mut buffer[..want])?;
            each(&buffer[..want])?;
            left -= want as u64;
        }
        let padding = padding(size);
        self.from.read_exact(&mut buffer[..padding as usize])?;
        self.at += size + padding;
        Ok(())
    }
}

/// What fills the last block.
pub fn padding(size: u64) -> u64 {
    (512 - size % 512) % 512
}

/// A key and its value.
type Record = (Vec<u8>, Vec<u8>);

/// The records of an extension header: `LENGTH KEY=VALUE\n`, where LENGTH counts all of it.
fn pax(mut bytes: &[u8]) -> Result<Vec<Record>, Fault> {
    const WRONG: Fault = Fault::Tar("an extension header that can't be read");
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let space = bytes.iter().take(20).position(|b| *b == b' ').ok_or(WRONG)?;
        let length: usize =
            std::str::from_utf8(&bytes[..space]).ok().and_then(|text| text.parse().ok()).ok_or(WRONG)?;
        let record = bytes.get(space + 1..length).ok_or(WRONG)?;
        let record = record.strip_suffix(b"\n").ok_or(WRONG)?;
        let equals = record.iter().position(|b| *b == b'=').ok_or(WRONG)?;
        records.push((record[..equals].to_vec(), record[equals + 1..].to_vec()));
        bytes = &bytes[length..];
    }
    Ok(records)
}
