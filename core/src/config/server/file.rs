//! The node file: TOML, flattened into keys with the line of each.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::settings::Settings;
use super::{Origin, ServerConfigError};

/// Reads the node file into the settings.
pub(super) fn read(path: &str, text: &str, settings: &mut Settings) -> Result<(), ServerConfigError> {
    let source = Source { path, text };
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        source.error(at, error.message().lines().collect::<Vec<_>>().join(", "))
    })?;
    source.table("", table.get_ref(), settings)
}

struct Source<'a> {
    path: &'a str,
    text: &'a str,
}

impl Source<'_> {
    fn origin(&self, at: usize) -> Origin {
        let before = self.text.get(..at).unwrap_or(self.text);
        Origin::File(self.path.to_owned(), before.matches('\n').count() + 1)
    }

    fn error(&self, at: usize, problem: String) -> ServerConfigError {
        ServerConfigError { origin: self.origin(at), problem }
    }

    fn table(
        &self,
        prefix: &str,
        table: &DeTable<'_>,
        settings: &mut Settings,
    ) -> Result<(), ServerConfigError> {
        for (name, value) in table.iter() {
            let name_text: &str = name.get_ref();
            let at = name.span().start;
            let key = if prefix.is_empty() { name_text.to_owned() } else { format!("{prefix}.{name_text}") };
            match value.get_ref() {
                DeValue::Table(inner) => self.table(&key, inner, settings)?,
                DeValue::Array(items) if key == "peers" => {
                    items.iter().try_for_each(|item| self.peer(item, settings))?;
                }
                scalar => {
                    let text = scalar_text(scalar)
                        .map_err(|what| self.error(at, format!("{key} must not be {what}")))?;
                    settings.put(key, text, self.origin(at));
                }
            }
        }
        Ok(())
    }

    /// One `[[peers]]`, as `peers.ID.…`.
    fn peer(&self, item: &Spanned<DeValue<'_>>, settings: &mut Settings) -> Result<(), ServerConfigError> {
        let at = item.span().start;
        let Some(table) = item.get_ref().as_table() else {
            return Err(self.error(at, "peers must be a list of tables: [[peers]]".to_owned()));
        };
        let id = table.iter().find(|(name, _)| &**name.get_ref() == "id").map(|(_, value)| value);
        let id = id.and_then(|value| scalar_text(value.get_ref()).ok());
        let Some(id) = id else {
            return Err(self.error(at, "this peer has no id: add id = N".to_owned()));
        };
        if settings.values.contains_key(&format!("peers.{id}.kafka")) {
            return Err(self.error(at, format!("two peers have the id {id}")));
        }
        for (name, value) in table.iter().filter(|(name, _)| &**name.get_ref() != "id") {
            let text = scalar_text(value.get_ref())
                .map_err(|what| self.error(at, format!("{} of a peer must not be {what}", name.get_ref())))?;
            settings.put(format!("peers.{id}.{}", name.get_ref()), text, self.origin(name.span().start));
        }
        Ok(())
    }
}

/// A value as text; numbers as they are written, lists of scalars joined by commas, as Kafka writes lists.
fn scalar_text(value: &DeValue<'_>) -> Result<String, &'static str> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Ok(number.as_str().replace(['_', '+'], "")),
        DeValue::Integer(_) => Err("a number of another base than ten"),
        DeValue::Float(number) => Ok(number.as_str().replace(['_', '+'], "")),
        DeValue::Boolean(flag) => Ok(flag.to_string()),
        DeValue::Array(items) => {
            let texts: Result<Vec<String>, _> =
                items.iter().map(|item| scalar_text(item.get_ref())).collect();
            Ok(texts?.join(","))
        }
        DeValue::Datetime(_) => Err("a date"),
        DeValue::Table(_) => Err("a table"),
    }
}
