use std::net::SocketAddr;

use bytes::Bytes;
use tokio::sync::mpsc;

/// Larger datagrams are nothing that a client of ours sends.
pub(super) const MAXIMUM_DATAGRAM: usize = 1_500;

/// A datagram that came in by a connection, or to another worker.
#[derive(Clone, Debug)]
pub(super) struct Datagram {
    pub(super) source: SocketAddr,
    /// The address of ours at which it came, as clients know it.
    pub(super) destination: SocketAddr,
    pub(super) bytes: Bytes,
    /// The connection by which it came, if it came by one.
    pub(super) stream: Option<Stream>,
}

/// Where datagrams for a client go that sends them by a connection. It ends when nobody has this any more.
pub(super) type Stream = mpsc::Sender<Bytes>;

/// From now on, datagrams from an address go to a worker; to none if the worker gives it up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route {
    pub(super) address: SocketAddr,
    pub(super) worker: usize,
    pub(super) add: bool,
}

/// With what the ICE user names of a worker's peers begin.
pub(super) fn prefix(worker: usize) -> String {
    format!("{worker:04x}")
}

/// The worker whose peer has this ICE user name.
pub(super) fn worker_of(user_name: &str) -> Option<usize> {
    usize::from_str_radix(user_name.get(..4)?, 16).ok()
}

/// The ICE user name of ours in a STUN request: in the USERNAME attribute, before the colon (RFC 8445, section 7.2.2).
pub(crate) fn user_name(datagram: &[u8]) -> Option<&str> {
    const HEADER: usize = 20;
    const USERNAME: u16 = 0x0006;
    if *datagram.first()? > 1 {
        return None;
    }
    let mut rest = datagram.get(HEADER..)?;
    while let [kind_high, kind_low, length_high, length_low, following @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*length_high, *length_low]));
        if u16::from_be_bytes([*kind_high, *kind_low]) == USERNAME {
            let name = std::str::from_utf8(following.get(..length)?).ok()?;
            return name.split(':').next();
        }
        // Values are padded to four bytes.
        rest = following.get(length.div_ceil(4) * 4..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut datagram = vec![0, 1, 0, 0];
        datagram.extend([0; 16]);
        for (kind, value) in attributes {
            datagram.extend(kind.to_be_bytes());
            datagram.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
            datagram.extend(*value);
            datagram.resize(datagram.len().div_ceil(4) * 4, 0);
        }
        datagram
    }

    #[test]
    fn user_names_are_found_behind_other_attributes() {
        let datagram = request(&[(0x24, &[1, 2, 3]), (6, b"0002abc:theirs")]);
        assert_eq!(user_name(&datagram), Some("0002abc"));
        assert_eq!(worker_of("0002abc"), Some(2));
        assert_eq!(user_name(&request(&[])), None);
        assert_eq!(user_name(&datagram[..30]), None, "cut off");
        assert_eq!(user_name(&[0x80; 40]), None, "no STUN");
        assert_eq!(worker_of("0ö"), None);
        assert_eq!(worker_of(&prefix(7)), Some(7));
    }
}
