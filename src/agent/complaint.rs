//! What programs say when they get no memory. Where only `RLIMIT_DATA` limits it, nobody is killed and the kernel counts
//! nothing: an allocation fails, and the program says so and ends with a status of its own. A limit that held and these
//! words before a failure are taken as one. A step that lies here changes how its own failure is called, nothing else.

/// Python, C++, the C library's ENOMEM, and what Rust and Go say.
const WORDS: [&[u8]; 5] =
    [b"MemoryError", b"std::bad_alloc", b"Cannot allocate memory", b"memory allocation of ", b"out of memory"];

const LONGEST: usize = 32;

/// Listens to one command's two streams.
#[derive(Debug, Default)]
pub struct Complaint {
    ends: [Vec<u8>; 2],
    heard: bool,
}

impl Complaint {
    /// Hears the next piece of a stream, 1 or 2.
    pub fn hear(&mut self, stream: u8, bytes: &[u8]) {
        let end = &mut self.ends[usize::from(stream == 2)];
        // Words that were cut stand at the end of what was before and the start of this.
        let mut seam = std::mem::take(end);
        seam.extend_from_slice(&bytes[..bytes.len().min(LONGEST)]);
        let holds = |text: &[u8]| WORDS.iter().any(|words| text.windows(words.len()).any(|window| window == *words));
        self.heard |= holds(&seam) || holds(bytes);
        let rest = if bytes.len() >= LONGEST { bytes } else { &seam[..] };
        *end = rest[rest.len().saturating_sub(LONGEST)..].to_vec();
    }

    /// Whether there was one.
    pub fn heard(&self) -> bool {
        self.heard
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn words_are_heard_however_the_stream_is_cut(
            before in "[a-z \n]{0,80}", word in 0usize..5, after in "[a-z \n]{0,80}", size in 1usize..50,
        ) {
            let text = [before.as_bytes(), WORDS[word], after.as_bytes()].concat();
            let mut complaint = Complaint::default();
            for piece in text.chunks(size) {
                complaint.hear(2, piece);
                // The other stream is another one.
                complaint.hear(1, b"x");
            }
            prop_assert!(complaint.heard());
        }

        #[test]
        fn nothing_else_is(text in "[a-z \n]{0,200}", size in 1usize..50) {
            prop_assume!(!text.contains("out of memory"));
            let mut complaint = Complaint::default();
            text.as_bytes().chunks(size).for_each(|piece| complaint.hear(1, piece));
            prop_assert!(!complaint.heard());
        }
    }
}
