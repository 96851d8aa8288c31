//! The runs of imports: the latest run of each source, and whether the import is finalized.
//!
//! Two importers may read one source at different times, so only the run that began last may write. Its stored state is
//! sealed; an altered state is ignored, unless it says that the import is finalized.

use std::collections::HashMap;

use super::submission::Submission;
use crate::envelope::{Seals, row};
use crate::lifecycle::Command;
use crate::storage::Connection;
use crate::storage::tables::usage;
use crate::types::audit::hex;
use crate::types::error::Result;
use crate::types::ids::ImportRunId;

/// The state of the import of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ImportState {
    /// The run that began last; only it may write.
    pub run: ImportRunId,
    /// Whether the import has ended.
    pub is_final: bool,
}

impl ImportState {
    /// The source and its new state, if the command changes it.
    pub fn after(command: &Command) -> Option<(String, Self)> {
        let (run, is_final) = match command {
            Command::BeginImport(run) => (run, false),
            Command::FinalizeImport(end) if end.is_last => (&end.run, true),
            _ => return None,
        };
        Some((run.source.clone(), Self { run: run.id, is_final }))
    }

    /// Reads the stored state of the import of a source.
    pub async fn read(connection: &mut dyn Connection, source: &str, seals: &Seals) -> Result<Option<Self>> {
        let stored = usage::meta(connection, &name(source)).await?;
        Ok(stored.and_then(|text| Self::open(&text, source, seals)))
    }

    fn sealed(&self, source: &str, seals: &Seals) -> String {
        let seal = seals.seal(&row::import_run(source, &self.run, self.is_final));
        format!("{} {} {}", self.run, if self.is_final { "final" } else { "open" }, hex(&seal))
    }

    fn open(text: &str, source: &str, seals: &Seals) -> Option<Self> {
        let mut words = text.split(' ');
        let (run, is_final) = (words.next()?.parse().ok()?, words.next()? == "final");
        let state = Self { run, is_final };
        // The integrity key may have been replaced since: an import that has ended stays ended.
        (is_final || state.sealed(source, seals) == text).then_some(state)
    }
}

/// The name under which the state of a source is stored.
fn name(source: &str) -> String {
    format!("import.{source}")
}

/// The states of the imports that the batch belongs to, by source. Read under the lock on the head.
pub(super) async fn import_states(
    connection: &mut dyn Connection,
    batch: &[Submission],
    seals: &Seals,
) -> Result<HashMap<String, ImportState>> {
    let mut states = HashMap::new();
    for run in batch.iter().filter_map(|submission| submission.command.as_ref()?.import_run()) {
        if !states.contains_key(&run.source)
            && let Some(state) = ImportState::read(connection, &run.source, seals).await?
        {
            states.insert(run.source.clone(), state);
        }
    }
    Ok(states)
}

/// Stores the new import states of a batch.
pub(super) async fn keep_import_states(
    connection: &mut dyn Connection,
    states: &HashMap<String, ImportState>,
    seals: &Seals,
) -> Result<()> {
    for (source, state) in states {
        usage::set_meta(connection, &name(source), &state.sealed(source, seals)).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_what_this_service_sealed_counts_but_an_end_is_an_end() {
        let (seals, others) = (Seals::new(1, &[1; 64]).unwrap(), Seals::new(1, &[2; 64]).unwrap());
        let open = ImportState { run: ImportRunId::random(), is_final: false };
        let text = open.sealed("a", &seals);
        assert_eq!(ImportState::open(&text, "a", &seals), Some(open.clone()));
        assert_eq!(ImportState::open(&text, "b", &seals), None);
        assert_eq!(ImportState::open(&text, "a", &others), None);
        let other = ImportState { run: ImportRunId::random(), is_final: false };
        assert_eq!(ImportState::open(&text.replace(&open.run.to_string(), &other.run.to_string()), "a", &seals), None);
        for bad in ["", "x", "x open y", &format!("{} open", open.run), &format!("{text} ")] {
            assert_eq!(ImportState::open(bad, "a", &seals), None, "{bad:?}");
        }
        let ended = ImportState { is_final: true, ..open };
        assert_eq!(ImportState::open(&ended.sealed("a", &seals), "a", &others), Some(ended));
    }
}
