//! Routes: named lists of models, in the order in which a turn asks them.

use std::{collections::BTreeMap, sync::Arc};

use crate::{domain::failover::Candidate, model::model_client::ModelClient};

/// One model of a route.
#[derive(Debug, Clone)]
pub struct RouteModel {
    /// Its name in the configuration, which events and records show.
    pub name: String,
    /// Its id at its provider.
    pub id: String,
    /// Whether it goes on from an answer that somebody else began.
    pub prefill: bool,
    /// Whether it calls tools.
    pub tools: bool,
    /// Most tokens it may write in one step.
    pub max_output_tokens: Option<u32>,
    /// Who asks it.
    pub client: Arc<dyn ModelClient>,
}

/// Every configured route, by name.
#[derive(Debug, Clone, Default)]
pub struct Routes(BTreeMap<String, Arc<[RouteModel]>>);

impl Routes {
    /// Routes by name.
    #[must_use]
    pub fn new(routes: BTreeMap<String, Vec<RouteModel>>) -> Self {
        Self(routes.into_iter().map(|(name, models)| (name, models.into())).collect())
    }

    /// The models of a route.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<[RouteModel]>> {
        self.0.get(name).cloned()
    }

    /// Names of all routes.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

/// The route as the walk over it needs it.
#[must_use]
pub fn candidates(models: &[RouteModel]) -> Vec<Candidate> {
    models.iter().map(|model| Candidate { prefill: model.prefill }).collect()
}
