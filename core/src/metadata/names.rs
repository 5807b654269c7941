//! Topic names: what Kafka allows, which names are internal, which two names collide.

use thiserror::Error;

/// The topic of committed offsets.
pub const CONSUMER_OFFSETS: &str = "__consumer_offsets";
/// The topic of transaction state.
pub const TRANSACTION_STATE: &str = "__transaction_state";
/// The metadata log's own directory; never a topic.
pub const CLUSTER_METADATA: &str = "__cluster_metadata";
/// Kafka's bound: name, dash and partition must fit a file name of 255 bytes.
pub const NAME_LENGTH_MAX: usize = 249;

/// Why a name is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    /// No characters.
    #[error("Topic name is invalid: the empty string is not allowed")]
    Empty,
    /// "." or "..".
    #[error("Topic name is invalid: '.' and '..' are not allowed")]
    Dots,
    /// More than [`NAME_LENGTH_MAX`].
    #[error("Topic name is invalid: the length of '{0}' is longer than the max allowed length 249")]
    TooLong(String),
    /// A character out of place.
    #[error(
        "Topic name is invalid: '{0}' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'"
    )]
    Characters(String),
}

/// Checks a name as `org.apache.kafka.common.internals.Topic.validate` does.
///
/// # Errors
/// See [`NameError`].
pub fn check_topic_name(name: &str) -> Result<(), NameError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name == "." || name == ".." {
        return Err(NameError::Dots);
    }
    if name.len() > NAME_LENGTH_MAX {
        return Err(NameError::TooLong(name.chars().take(NAME_LENGTH_MAX).collect()));
    }
    if !name.bytes().all(allowed) {
        return Err(NameError::Characters(name.to_owned()));
    }
    Ok(())
}

/// Whether the broker itself keeps state in the topic.
#[must_use]
pub fn is_internal(name: &str) -> bool {
    matches!(name, CONSUMER_OFFSETS | TRANSACTION_STATE)
}

/// The name with '.' as '_'; two topics with the same one collide in metric names. None when the name has neither.
#[must_use]
pub fn collision_key(name: &str) -> Option<String> {
    name.contains(['.', '_']).then(|| name.replace('.', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_kafkas_rules() {
        let long = "a".repeat(249);
        for good in ["a", "A.b_c-9", "...", "__consumer_offsets", long.as_str()] {
            assert_eq!(check_topic_name(good), Ok(()), "{good}");
        }
        let longer = "a".repeat(250);
        for bad in ["", ".", "..", "a/b", "a b", "ä", "a\0", longer.as_str()] {
            assert!(check_topic_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn dots_and_underscores_collide() {
        assert_eq!(collision_key("a.b"), collision_key("a_b"));
        assert_eq!(collision_key("ab"), None);
    }
}
