//! Routes: named lists of models, in the order in which a turn asks them.

use std::{collections::BTreeMap, sync::Arc};

use crate::{domain::failover::Candidate, model::model_client::ModelClient};

/// One model of a route.
#[derive(Debug, Clone)]
pub(crate) struct RouteModel {
    /// Its name in the configuration, events and records.
    pub name: String,
    /// The model's id at its provider.
    pub id: String,
    /// Whether it can continue an answer that another model began.
    pub prefill: bool,
    /// Whether it calls tools.
    pub tools: bool,
    /// Maximum tokens of one step.
    pub max_output_tokens: Option<u32>,
    pub client: Arc<dyn ModelClient>,
}

/// All configured routes by name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Routes(BTreeMap<String, Arc<[RouteModel]>>);

impl Routes {
    pub(crate) fn new(routes: BTreeMap<String, Vec<RouteModel>>) -> Self {
        Self(routes.into_iter().map(|(name, models)| (name, models.into())).collect())
    }

    /// Returns the models of a route.
    pub(crate) fn get(&self, name: &str) -> Option<Arc<[RouteModel]>> {
        self.0.get(name).cloned()
    }

    /// Names of all routes.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

/// Returns the properties of the route's models that a [`Walk`](crate::domain::failover::Walk) needs.
pub(crate) fn candidates(models: &[RouteModel]) -> Vec<Candidate> {
    models.iter().map(|model| Candidate { prefill: model.prefill }).collect()
}
