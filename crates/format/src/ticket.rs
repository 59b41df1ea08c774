//! Tickets: the text by which one machine invites another.
//!
//! A ticket names the volume, the replica that invites and where it listens, and the store, and
//! carries a secret that the inviter takes once. Whoever has the text can join until it was used
//! or is too old, so it is handed over as a password is. It is written in the digits of the
//! recovery key; the checksum at its end tells a mistyped or cut text from a refused one.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::fmt;

use larder_model::{ReplicaId, VolumeId};
use zeroize::Zeroizing;

use crate::recovery::{DIGITS, digit_value};
use crate::wire::{Reader, put_counted, put_varint};
use crate::{FormatError, object_hash};

const PREFIX: &str = "larder-";
const VERSION: u8 = 1;
const CHECKSUM_LEN: usize = 4;
const MAX_ADDRESSES: usize = 16;
const MAX_STORE_BYTES: usize = 1024;
const MAX_TEXT_BYTES: usize = 4096;
const WHAT: &str = "ticket";

/// An invitation.
#[derive(Clone, PartialEq, Eq)]
pub struct Ticket {
    /// To which volume.
    pub volume: VolumeId,
    /// Who invites.
    pub replica: ReplicaId,
    /// Where it listens: at most 16 are written.
    pub addresses: Vec<SocketAddr>,
    /// The volume's store; it holds no secrets.
    pub store: String,
    /// Until when it is taken, in seconds since 1970.
    pub expires: u64,
    /// What is taken once.
    pub secret: Zeroizing<[u8; 32]>,
}

impl Ticket {
    /// The text to hand over.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(vec![VERSION]);
        bytes.extend(self.volume.as_bytes());
        bytes.extend(self.replica.as_bytes());
        bytes.extend(&*self.secret);
        bytes.extend(self.expires.to_le_bytes());
        let addresses = &self.addresses[..self.addresses.len().min(MAX_ADDRESSES)];
        put_varint(&mut bytes, addresses.len() as u64);
        for address in addresses {
            match address.ip() {
                IpAddr::V4(ip) => {
                    bytes.push(4);
                    bytes.extend(ip.octets());
                }
                IpAddr::V6(ip) => {
                    bytes.push(6);
                    bytes.extend(ip.octets());
                }
            }
            bytes.extend(address.port().to_le_bytes());
        }
        put_counted(&mut bytes, self.store.as_bytes());
        let sum = object_hash(&bytes);
        bytes.extend(&sum[..CHECKSUM_LEN]);
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + bytes.len() * 2));
        text.push_str(PREFIX);
        write_digits(&bytes, &mut text);
        text
    }

    /// Reads a ticket. Spaces and line ends within are ignored.
    ///
    /// # Errors
    /// If it is none, or of a newer version.
    pub fn parse(text: &str) -> Result<Self, FormatError> {
        let bytes = read_digits(text)?;
        let no_sum = |why| FormatError::Damaged { what: WHAT, why };
        let (body, sum) = bytes
            .split_last_chunk::<CHECKSUM_LEN>()
            .ok_or_else(|| no_sum("it is too short"))?;
        if object_hash(body)[..CHECKSUM_LEN] != *sum {
            return Err(no_sum("it is mistyped, or a part is missing"));
        }
        let mut reader = Reader::new(WHAT, body);
        let version = reader.u8()?;
        if version > VERSION {
            return Err(FormatError::Newer {
                what: WHAT,
                version: version.into(),
                known: VERSION.into(),
            });
        }
        reader.ensure(version == VERSION, "its version makes no sense")?;
        let (volume, replica) = (VolumeId(reader.array()?), ReplicaId(reader.array()?));
        let secret = Zeroizing::new(reader.array()?);
        let expires = reader.u64()?;
        let count = reader.count(7)?;
        reader.ensure(count <= MAX_ADDRESSES, "it has too many addresses")?;
        let addresses = (0..count)
            .map(|_| address(&mut reader))
            .collect::<Result<_, _>>()?;
        let store = reader.counted()?;
        reader.ensure(store.len() <= MAX_STORE_BYTES, "its store is too long")?;
        let store = std::str::from_utf8(store).map_err(|_| no_sum("its store is no text"))?;
        reader.finish()?;
        Ok(Self {
            volume,
            replica,
            addresses,
            store: store.to_owned(),
            expires,
            secret,
        })
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ticket({}, ..)", self.volume)
    }
}

fn address(reader: &mut Reader<'_>) -> Result<SocketAddr, FormatError> {
    let ip = match reader.u8()? {
        4 => IpAddr::V4(Ipv4Addr::from(reader.array::<4>()?)),
        6 => IpAddr::V6(Ipv6Addr::from(reader.array::<16>()?)),
        _ => return Err(reader.damaged("it has an address of no kind that is known")),
    };
    Ok(SocketAddr::new(ip, u16::from_le_bytes(reader.array()?)))
}

/// Five bits a digit, the highest first; the last is filled up with zeros.
fn write_digits(bytes: &[u8], text: &mut String) {
    let (mut bits, mut count) = (0u32, 0);
    for &byte in bytes {
        bits = bits << 8 | u32::from(byte);
        count += 8;
        while count >= 5 {
            count -= 5;
            text.push(char::from(DIGITS[(bits >> count & 31) as usize]));
        }
        bits &= (1 << count) - 1;
    }
    if count > 0 {
        text.push(char::from(DIGITS[(bits << (5 - count) & 31) as usize]));
    }
}

fn read_digits(text: &str) -> Result<Zeroizing<Vec<u8>>, FormatError> {
    let damaged = |why| FormatError::Damaged { what: WHAT, why };
    let text = text.trim();
    let at = PREFIX.len();
    let is_one = text.len() <= MAX_TEXT_BYTES
        && text
            .get(..at)
            .is_some_and(|start| start.eq_ignore_ascii_case(PREFIX));
    if !is_one {
        return Err(damaged("a ticket begins with `larder-`"));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    let (mut bits, mut count) = (0u32, 0);
    for character in text[at..].chars().filter(|c| !c.is_whitespace()) {
        let value = digit_value(character)
            .ok_or_else(|| damaged("it has a character that no ticket has"))?;
        bits = bits << 5 | u32::from(value);
        count += 5;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    match count < 5 && bits == 0 {
        true => Ok(bytes),
        false => Err(damaged("it is mistyped, or a part is missing")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket() -> Ticket {
        Ticket {
            volume: VolumeId([1; 16]),
            replica: ReplicaId([2; 32]),
            addresses: vec![
                "192.168.1.7:40000".parse().unwrap(),
                "[fe80::1]:40001".parse().unwrap(),
            ],
            store: "sftp://nas/srv/larder".to_owned(),
            expires: 1_800_000_000,
            secret: Zeroizing::new([3; 32]),
        }
    }

    #[test]
    fn a_ticket_is_read_back_as_people_copy_it() {
        let text = ticket().to_text();
        assert_eq!(Ticket::parse(&text).unwrap(), ticket());
        let (one, two) = text.split_at(40);
        let wrapped = format!(" {}\n  {}\n", one.to_lowercase(), two);
        assert_eq!(Ticket::parse(&wrapped).unwrap(), ticket());
    }

    #[test]
    fn any_mistyped_digit_and_any_cut_is_found() {
        let text = ticket().to_text();
        for at in PREFIX.len()..text.len() {
            let mut other = text.as_bytes().to_vec();
            other[at] = if other[at] == b'7' { b'8' } else { b'7' };
            assert!(Ticket::parse(std::str::from_utf8(&other).unwrap()).is_err());
            assert!(Ticket::parse(&text[..at]).is_err());
        }
        assert!(Ticket::parse("").is_err());
        assert!(Ticket::parse("https://example.org").is_err());
    }

    #[test]
    fn its_secret_is_not_shown() {
        assert!(!format!("{:?}", ticket()).contains("3, 3"));
    }
}
