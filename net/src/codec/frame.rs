//! The four bytes before each request: how long it is, big-endian.

/// Longest request that Kafka takes unless told otherwise (`socket.request.max.bytes`), in bytes.
pub const FRAME_BYTES_MAX_DEFAULT: usize = 104_857_600;

/// A length that no request may have: the connection is to be closed, as Kafka does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("request of {announced} bytes, where 0 to {max} are allowed (socket.request.max.bytes)")]
pub struct FrameLengthError {
    /// What the client announced.
    pub announced: i32,
    /// The limit.
    pub max: usize,
}

/// The bytes that follow `prefix`, at most `max`. To be asked before any room is made for them.
pub fn frame_length(prefix: [u8; 4], max: usize) -> Result<usize, FrameLengthError> {
    let announced = i32::from_be_bytes(prefix);
    match usize::try_from(announced) {
        Ok(length) if length <= max => Ok(length),
        _ => Err(FrameLengthError { announced, max }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_at_their_edges() {
        let length = |announced: i32| frame_length(announced.to_be_bytes(), FRAME_BYTES_MAX_DEFAULT);
        assert_eq!((length(0), length(104_857_600)), (Ok(0), Ok(FRAME_BYTES_MAX_DEFAULT)));
        for announced in [-1, i32::MIN, i32::MAX, 104_857_601] {
            assert_eq!(length(announced).unwrap_err().announced, announced);
        }
    }
}
