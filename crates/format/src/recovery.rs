//! The recovery key: 256 random bits that open a volume when the passphrase is gone, and the
//! text in which they are printed and typed.
//!
//! The text is 56 characters of Crockford's base 32 in 14 groups of four: the 32 bytes, then
//! three bytes of checksum. Reading it forgives case, spaces and dashes, and takes the
//! letters O, I and L for the digits they are mistaken for; the checksum finds a mistyped
//! character before anyone wonders why no slot opens (one wrong text in 16 million passes).

use std::fmt;

use zeroize::Zeroizing;

/// The BLAKE3 derivation context of the checksum.
pub(crate) const CHECKSUM_CONTEXT: &str = "larder 1 recovery key checksum";

pub(crate) const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const BYTES: usize = 35;
const CHARACTERS: usize = 56;
const GROUP: usize = 4;

/// A recovery key.
#[derive(Clone)]
pub struct RecoveryKey(Zeroizing<[u8; 32]>);

/// Why a text is not a recovery key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecoveryKeyError {
    /// A character that no recovery key has.
    #[error("a recovery key has no {0:?}: it is made of digits and letters, without U")]
    Character(char),
    /// Too few or too many characters.
    #[error("a recovery key has {CHARACTERS} characters (14 groups of 4), and this has {0}")]
    Length(usize),
    /// Right in shape, but mistyped somewhere.
    #[error("the recovery key is mistyped: its checksum does not match; compare each group")]
    Checksum,
}

impl RecoveryKey {
    /// The key of these random bytes.
    pub fn from_secret(secret: [u8; 32]) -> Self {
        Self(Zeroizing::new(secret))
    }

    pub(crate) fn secret(&self) -> &[u8; 32] {
        &self.0
    }

    /// The text to print.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new([0; BYTES]);
        bytes[..32].copy_from_slice(&*self.0);
        bytes[32..].copy_from_slice(&checksum(&self.0));
        let mut text = Zeroizing::new(String::with_capacity(CHARACTERS + CHARACTERS / GROUP));
        for (at, digit) in digits(&bytes).enumerate() {
            if at > 0 && at % GROUP == 0 {
                text.push('-');
            }
            text.push(char::from(digit));
        }
        text
    }

    /// Reads a text as a person typed it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, RecoveryKeyError> {
        let mut values = Zeroizing::new([0u8; CHARACTERS]);
        let mut count = 0;
        for character in text.chars() {
            if character.is_whitespace() || matches!(character, '-' | '\u{2010}'..='\u{2015}') {
                continue;
            }
            let value = digit_value(character).ok_or(RecoveryKeyError::Character(character))?;
            if let Some(place) = values.get_mut(count) {
                *place = value;
            }
            count += 1;
        }
        if count != CHARACTERS {
            return Err(RecoveryKeyError::Length(count));
        }
        let bytes = join_digits(&values);
        let mut secret = Zeroizing::new([0; 32]);
        secret.copy_from_slice(&bytes[..32]);
        if bytes[32..] != checksum(&secret) {
            return Err(RecoveryKeyError::Checksum);
        }
        Ok(Self(secret))
    }
}

impl fmt::Debug for RecoveryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecoveryKey(..)")
    }
}

fn checksum(secret: &[u8; 32]) -> [u8; 3] {
    let [a, b, c, ..] = blake3::derive_key(CHECKSUM_CONTEXT, secret);
    [a, b, c]
}

/// Five bits a digit, the highest first.
fn digits(bytes: &[u8; BYTES]) -> impl Iterator<Item = u8> + '_ {
    bytes.chunks_exact(5).flat_map(|five| {
        let bits = five.iter().fold(0u64, |bits, &b| bits << 8 | u64::from(b));
        (0..8)
            .rev()
            .map(move |at| DIGITS[(bits >> (5 * at) & 31) as usize])
    })
}

fn join_digits(values: &[u8; CHARACTERS]) -> Zeroizing<[u8; BYTES]> {
    let mut bytes = Zeroizing::new([0; BYTES]);
    for (five, eight) in bytes.chunks_exact_mut(5).zip(values.chunks_exact(8)) {
        let bits = eight.iter().fold(0u64, |bits, &v| bits << 5 | u64::from(v));
        five.copy_from_slice(&bits.to_be_bytes()[3..]);
    }
    bytes
}

pub(crate) fn digit_value(character: char) -> Option<u8> {
    let digit = match character.to_ascii_uppercase() {
        'O' => b'0',
        'I' | 'L' => b'1',
        other => u8::try_from(other).ok()?,
    };
    DIGITS.iter().position(|&d| d == digit).map(|at| at as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_recovery_key_is_read_back_as_people_type_it(secret: [u8; 32]) {
            let text = RecoveryKey::from_secret(secret).to_text();
            for typed in [
                text.to_string(),
                text.to_lowercase(),
                text.replace('-', ""),
                text.replace('-', " \n"),
                text.replace('0', "o").replace('1', "l"),
            ] {
                let read = RecoveryKey::parse(&typed).unwrap();
                prop_assert_eq!(read.secret(), &secret);
            }
        }
    }

    #[test]
    fn every_mistyped_character_is_found() {
        let text = RecoveryKey::from_secret(std::array::from_fn(|i| i as u8)).to_text();
        for at in (0..text.len()).filter(|&at| text.as_bytes()[at] != b'-') {
            for other in DIGITS {
                let mut typed = text.as_bytes().to_vec();
                if typed[at] != *other {
                    typed[at] = *other;
                    let typed = String::from_utf8(typed).unwrap();
                    assert_eq!(
                        RecoveryKey::parse(&typed).unwrap_err(),
                        RecoveryKeyError::Checksum,
                        "{typed}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_text_of_another_shape_is_refused_in_words() {
        assert_eq!(
            RecoveryKey::parse("").unwrap_err(),
            RecoveryKeyError::Length(0)
        );
        assert_eq!(
            RecoveryKey::parse("ABC!").unwrap_err(),
            RecoveryKeyError::Character('!')
        );
        let long = "0".repeat(100_000);
        assert_eq!(
            RecoveryKey::parse(&long).unwrap_err().to_string(),
            "a recovery key has 56 characters (14 groups of 4), and this has 100000"
        );
    }
}
