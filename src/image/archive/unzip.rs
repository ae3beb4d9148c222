//! The bytes of a layer, however it is compressed. What it is stands in its first bytes; what is said of it elsewhere is not asked.

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use std::io::{self, BufRead, BufReader, Read};

/// Unpacks what `from` gives.
pub fn unzip(from: impl Read + Send + 'static) -> io::Result<Box<dyn Read + Send>> {
    let mut from = BufReader::with_capacity(1 << 17, from);
    let head = from.fill_buf()?;
    Ok(if head.starts_with(&[0x1f, 0x8b]) {
        Box::new(MultiGzDecoder::new(from))
    } else if is_zstd(head) {
        Box::new(Zstd { from, decoder: Box::new(FrameDecoder::new()), inside: false })
    } else {
        Box::new(from)
    })
}

/// A frame, or one to be skipped.
fn is_zstd(head: &[u8]) -> bool {
    let Some(magic) = head.first_chunk::<4>().map(|magic| u32::from_le_bytes(*magic)) else { return false };
    magic == 0xfd2f_b528 || magic & 0xffff_fff0 == 0x184d_2a50
}

/// Frames one after the other; the library reads one.
struct Zstd<R> {
    from: R,
    decoder: Box<FrameDecoder>,
    inside: bool,
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !buffer.is_empty() {
            if !self.inside {
                if self.from.fill_buf()?.is_empty() {
                    return Ok(0);
                }
                self.inside = self.open()?;
            } else if self.decoder.can_collect() > 0 {
                return self.decoder.read(buffer);
            } else if self.decoder.is_finished() {
                self.inside = false;
            } else {
                self.decoder.decode_blocks(&mut self.from, BlockDecodingStrategy::UptoBlocks(1)).map_err(broken)?;
            }
        }
        Ok(0)
    }
}

impl<R: BufRead> Zstd<R> {
    /// Begins the next frame; false where that one was to be skipped.
    fn open(&mut self) -> io::Result<bool> {
        match self.decoder.reset(&mut self.from) {
            Ok(()) => Ok(true),
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                let skipped = io::copy(&mut self.from.by_ref().take(length.into()), &mut io::sink())?;
                if skipped == u64::from(length) { Ok(false) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
            }
            Err(error) => Err(broken(error)),
        }
    }
}

fn broken(error: FrameDecoderError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}
