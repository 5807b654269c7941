//! What one Kafka config is: name, type, default, which values it takes, and whether chronik acts on it.
//!
//! Pure data, made once from the tables (`tables.rs`) and read from every shard.

use thiserror::Error;

/// Why a config was refused. The texts follow Kafka's own, because people search for them.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// No config of this name.
    #[error("Unknown {scope} config name: {name}{}", .nearest.map(|n| format!(" (did you mean {n}?)")).unwrap_or_default())]
    Unknown {
        /// "topic" or "broker".
        scope: &'static str,
        /// The name that was asked for.
        name: String,
        /// The nearest name that exists.
        nearest: Option<&'static str>,
    },
    /// The value does not fit the config's type or range.
    #[error("Invalid value {value} for configuration {name}: {reason}")]
    BadValue {
        /// The config.
        name: &'static str,
        /// What was given.
        value: String,
        /// What was expected.
        reason: String,
    },
    /// Kafka knows it, chronik does not do it.
    #[error("{name}={value} is not supported by chronik: {reason}")]
    Unsupported {
        /// The config.
        name: &'static str,
        /// What was given.
        value: String,
        /// Which value is accepted.
        reason: String,
    },
    /// It belongs elsewhere in the node's configuration.
    #[error("{name} is set by {place} in the node's configuration")]
    Elsewhere {
        /// The config.
        name: &'static str,
        /// Where to set it.
        place: &'static str,
    },
    /// It cannot change while the broker runs.
    #[error("Cannot update these configs dynamically: [{name}]")]
    ReadOnly {
        /// The config.
        name: &'static str,
    },
    /// It can change for a single broker, not for all.
    #[error("Cannot update these configs at default cluster level, broker id must be specified: [{name}]")]
    OneBrokerOnly {
        /// The config.
        name: &'static str,
    },
    /// Two configs that contradict one another.
    #[error("{0}")]
    Contradiction(String),
}

/// Kafka's type of a config.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// true or false.
    Boolean,
    /// Text.
    String,
    /// 32-bit number.
    Int,
    /// 16-bit number.
    Short,
    /// 64-bit number.
    Long,
    /// Floating-point number.
    Double,
    /// Comma-separated texts.
    List,
    /// Name of a Java class.
    Class,
    /// Text never shown.
    Password,
}

impl Kind {
    /// The number that DescribeConfigs v3+ uses (KIP-569).
    #[must_use]
    pub fn wire_number(self) -> i8 {
        match self {
            Kind::Boolean => 1,
            Kind::String => 2,
            Kind::Int => 3,
            Kind::Short => 4,
            Kind::Long => 5,
            Kind::Double => 6,
            Kind::List => 7,
            Kind::Class => 8,
            Kind::Password => 9,
        }
    }

    /// As in Kafka's documentation; `None` for a word that is no type.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "boolean" => Kind::Boolean,
            "string" => Kind::String,
            "int" => Kind::Int,
            "short" => Kind::Short,
            "long" => Kind::Long,
            "double" => Kind::Double,
            "list" => Kind::List,
            "class" => Kind::Class,
            "password" => Kind::Password,
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Boolean => "BOOLEAN",
            Kind::String => "STRING",
            Kind::Int => "INT",
            Kind::Short => "SHORT",
            Kind::Long => "LONG",
            Kind::Double => "DOUBLE",
            Kind::List => "LIST",
            Kind::Class => "CLASS",
            Kind::Password => "PASSWORD",
        }
    }
}

/// Which values of its type a config takes.
#[derive(Clone, Debug, PartialEq)]
pub enum Validator {
    /// All of them.
    Any,
    /// Numbers from the first to the second, both included; besides them the third, if given.
    Range(f64, f64, Option<f64>),
    /// One of these words (each element, for a list); the flag says that case does not matter.
    OneOf(Vec<&'static str>, bool),
    /// Anything but nothing.
    NonEmpty,
    /// `*`, or a list of `partition:broker`.
    ThrottledReplicas,
}

impl Validator {
    /// Reads the "valid values" column of Kafka's documentation; `None` when it is not understood.
    #[must_use]
    pub fn parse(text: &'static str) -> Option<Self> {
        match text {
            "" | "non-null string" => return Some(Validator::Any),
            "non-empty list" | "non-empty string" => return Some(Validator::NonEmpty),
            _ if text.starts_with("[partitionId]") => return Some(Validator::ThrottledReplicas),
            _ => {}
        }
        let (text, ignore_case) = match text.strip_prefix("(case insensitive) ") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        let (bracket, besides) = match text.split_once(" or ") {
            Some((bracket, number)) => (bracket, Some(number.parse().ok()?)),
            None => (text, None),
        };
        let inner = bracket.strip_prefix('[')?.strip_suffix(']')?;
        if let Some((low, high)) = inner.split_once(",...") {
            let high = match high.strip_prefix(',') {
                Some(high) => high.parse().ok()?,
                None => f64::INFINITY,
            };
            return Some(Validator::Range(low.parse().ok()?, high, besides));
        }
        Some(Validator::OneOf(inner.split(", ").collect(), ignore_case))
    }
}

/// Kafka's judgement of how much a config matters; only shown.
pub type Importance = &'static str;

/// When a broker config may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateMode {
    /// Only by a restart.
    ReadOnly,
    /// While running, for one broker or for all.
    PerBroker,
    /// While running; meant for all brokers, allowed for one.
    ClusterWide,
}

/// What chronik does with a config.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// Acts on it.
    Honoured,
    /// Takes and reports it; nothing that a user could miss depends on it.
    Accepted,
    /// Refuses every value but the default, since what it promises is not there.
    Unsupported,
    /// Comes from elsewhere in the node file, named here; reported with the value from there.
    Node(&'static str),
}

/// One config of Kafka's.
#[derive(Clone, Debug)]
pub struct ConfigDefinition {
    /// Kafka's name.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Kafka's default; `None` for null.
    pub default: Option<&'static str>,
    /// Which values it takes.
    pub validator: Validator,
    /// Kafka's judgement.
    pub importance: Importance,
    /// When it may change (topic configs: always, `ClusterWide`).
    pub update_mode: UpdateMode,
    /// What chronik does with it.
    pub support: Support,
    /// For a topic config: the broker config that gives its default.
    pub server_default: Option<&'static str>,
    /// One sentence; empty where chronik does not act on it.
    pub documentation: &'static str,
}

impl ConfigDefinition {
    /// Whether its value must never be shown.
    #[must_use]
    pub fn is_sensitive(&self) -> bool {
        self.kind == Kind::Password
    }

    /// Checks a value and brings it into the form it is kept in (trimmed, lists without spaces).
    ///
    /// # Errors
    /// When the value does not fit, or promises what chronik does not do.
    pub fn check(&self, value: &str) -> Result<String, ConfigError> {
        let value = value.trim();
        let normal = match self.kind {
            Kind::List => split_list(value).join(","),
            Kind::Boolean => value.to_ascii_lowercase(),
            _ => value.to_owned(),
        };
        self.check_type(&normal)?;
        self.check_range(&normal)?;
        self.check_support(&normal)?;
        Ok(normal)
    }

    fn bad(&self, value: &str, reason: impl Into<String>) -> ConfigError {
        ConfigError::BadValue { name: self.name, value: value.to_owned(), reason: reason.into() }
    }

    fn check_type(&self, value: &str) -> Result<(), ConfigError> {
        let fits = match self.kind {
            Kind::Boolean => {
                if value == "true" || value == "false" {
                    return Ok(());
                }
                return Err(self.bad(value, "Expected value to be either true or false"));
            }
            Kind::Int => value.parse::<i32>().is_ok(),
            Kind::Short => value.parse::<i16>().is_ok(),
            Kind::Long => value.parse::<i64>().is_ok(),
            Kind::Double => value.parse::<f64>().is_ok_and(f64::is_finite),
            Kind::String | Kind::List | Kind::Class | Kind::Password => true,
        };
        if fits { Ok(()) } else { Err(self.bad(value, format!("Not a number of type {}", self.kind.name()))) }
    }

    fn check_range(&self, value: &str) -> Result<(), ConfigError> {
        match &self.validator {
            Validator::Any => Ok(()),
            Validator::NonEmpty if value.is_empty() => Err(self.bad(value, "must not be empty")),
            Validator::NonEmpty => Ok(()),
            Validator::Range(low, high, besides) => self.check_number(value, *low, *high, *besides),
            Validator::OneOf(words, ignore_case) => self.check_words(value, words, *ignore_case),
            Validator::ThrottledReplicas => {
                let well_formed = |item: &&str| {
                    let numbers = item.split_once(':');
                    numbers.is_some_and(|(p, b)| p.parse::<u32>().is_ok() && b.parse::<u32>().is_ok())
                };
                if value == "*" || split_list(value).iter().all(well_formed) {
                    return Ok(());
                }
                let form =
                    "must be the literal '*' or a list of replicas in the form [partitionId]:[brokerId],...";
                Err(self.bad(value, form))
            }
        }
    }

    fn check_number(
        &self,
        value: &str,
        low: f64,
        high: f64,
        besides: Option<f64>,
    ) -> Result<(), ConfigError> {
        let number: f64 = value.parse().map_err(|_| self.bad(value, "not a number"))?;
        if besides == Some(number) {
            return Ok(());
        }
        if number < low {
            return Err(self.bad(value, format!("Value must be at least {low}")));
        }
        if number > high {
            return Err(self.bad(value, format!("Value must be no more than {high}")));
        }
        Ok(())
    }

    fn check_words(&self, value: &str, words: &[&'static str], ignore_case: bool) -> Result<(), ConfigError> {
        let known =
            |word: &str| words.iter().any(|w| *w == word || (ignore_case && w.eq_ignore_ascii_case(word)));
        let fits = match self.kind {
            Kind::List => split_list(value).iter().all(|word| known(word)),
            _ => known(value),
        };
        if fits {
            Ok(())
        } else {
            Err(self.bad(value, format!("String must be one of: {}", words.join(", "))))
        }
    }

    fn check_support(&self, value: &str) -> Result<(), ConfigError> {
        match self.support {
            Support::Honoured | Support::Accepted => Ok(()),
            Support::Node(place) => Err(ConfigError::Elsewhere { name: self.name, place }),
            Support::Unsupported if self.default == Some(value) => Ok(()),
            Support::Unsupported => Err(ConfigError::Unsupported {
                name: self.name,
                value: value.to_owned(),
                reason: match self.default {
                    Some("") | None => "leave it out".to_owned(),
                    Some(default) => format!("only {default} is accepted"),
                },
            }),
        }
    }
}

/// The elements of a list config: split at commas, trimmed, empty ones dropped.
#[must_use]
pub fn split_list(value: &str) -> Vec<&str> {
    value.split(',').map(str::trim).filter(|word| !word.is_empty()).collect()
}
