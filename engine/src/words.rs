//! Words: 64-bit numbers, little-endian. Transfers, handshakes and small files consist of them.

use std::io::{self, Read};

/// Encodes words as bytes.
pub(crate) fn words(words: impl IntoIterator<Item = u64>) -> Vec<u8> {
    words.into_iter().flat_map(u64::to_le_bytes).collect()
}

/// Decodes the words of such bytes. An incomplete word at the end is ignored.
pub(crate) fn words_of(bytes: &[u8]) -> Vec<u64> {
    bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).collect()
}

/// Appends words to bytes.
pub(crate) fn put_words<const N: usize>(into: &mut Vec<u8>, words: [u64; N]) {
    into.extend_from_slice(words.map(u64::to_le_bytes).as_flattened());
}

/// Reads as many words as the array has.
pub(crate) fn read_words<const N: usize>(from: &mut (impl Read + ?Sized)) -> io::Result<[u64; N]> {
    let mut bytes = [[0; 8]; N];
    from.read_exact(bytes.as_flattened_mut())?;
    Ok(bytes.map(u64::from_le_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_and_a_part_of_them_does_not() {
        let mut bytes = words([1]);
        put_words(&mut bytes, [u64::MAX]);
        assert_eq!(bytes, [&[1, 0, 0, 0, 0, 0, 0, 0][..], &[255; 8]].concat());
        assert_eq!(words_of(&bytes), [1, u64::MAX]);
        assert_eq!(words_of(&bytes[..15]), [1]);
        assert_eq!(read_words(&mut &bytes[..]).unwrap(), [1, u64::MAX]);
        assert!(read_words::<2>(&mut &bytes[..15]).is_err());
    }
}
