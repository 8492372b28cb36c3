//! Finds the route for a method and a path.
//!
//! The router library supports one parameter in each segment and no `:verb`. So the verb is cut off first,
//! and each pair of method and verb has a tree of its own. If no route matches with the verb, the path is
//! tried again with the verb as part of its last segment, because an identifier may contain a colon. Values
//! stay percent-encoded: `a%2Fb` is one segment.

use std::{collections::HashMap, sync::Arc};

use http::Method;

use super::{Error, Route};

#[derive(Debug)]
pub(crate) struct Matched<'t, 'p> {
    pub(crate) route: &'t Arc<Route>,
    /// Values of the template's variables in order, still percent-encoded.
    pub(crate) values: Vec<&'p str>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NoMatch {
    /// No route has this path.
    Path,
    /// The path has routes with these methods.
    Method(Vec<Method>),
}

/// A tree of paths for each verb and method.
#[derive(Debug, Default)]
pub(super) struct Router {
    by_verb: HashMap<Option<String>, HashMap<Method, matchit::Router<usize>>>,
}

impl Router {
    pub(super) fn new(routes: &[Arc<Route>]) -> Result<Self, Error> {
        let mut router = Self::default();
        let mut seen: HashMap<(Method, String), &Route> = HashMap::new();
        for (index, route) in routes.iter().enumerate() {
            // Templates that differ only in the names of variables match the same paths.
            let shape = route.template.render(|n, _| format!("v{n}"));
            if let Some(first) = seen.insert((route.method.clone(), shape.clone()), route) {
                return Err(Error::Clash {
                    method: route.method.clone(),
                    template: route.template.to_string(),
                    first: first.rpc.full_name().to_owned(),
                    second: route.rpc.full_name().to_owned(),
                });
            }
            let verb = route.template.verb.clone();
            let path = match &verb {
                Some(verb) => shape.strip_suffix(&format!(":{verb}")).unwrap_or(&shape),
                None => &shape,
            };
            let tree = router.by_verb.entry(verb).or_default().entry(route.method.clone()).or_default();
            tree.insert(path, index).map_err(|problem| Error::Unservable {
                rpc: route.rpc.full_name().to_owned(),
                problem: format!("{} is not routable: {problem}", route.template),
            })?;
        }
        Ok(router)
    }

    pub(super) fn find<'t, 'p>(
        &self,
        routes: &'t [Arc<Route>],
        method: &Method,
        path: &'p str,
    ) -> Result<Matched<'t, 'p>, NoMatch> {
        let last_segment = path.rfind('/').map_or(0, |slash| slash + 1);
        let verb =
            path.get(last_segment..).and_then(|segment| segment.rsplit_once(':')).map(|(_, verb)| verb);
        let without_verb = verb.and_then(|verb| path.get(..path.len() - verb.len() - 1));

        let mut allowed = Vec::new();
        let candidates = [verb.zip(without_verb).map(|(verb, path)| (Some(verb), path)), Some((None, path))];
        for (verb, path) in candidates.into_iter().flatten() {
            let Some(trees) = self.by_verb.get(&verb.map(str::to_owned)) else { continue };
            // HEAD uses the route of GET; the server omits the body.
            let wanted = if method == Method::HEAD { &Method::GET } else { method };
            if let Some((route, values)) = trees.get(wanted).and_then(|tree| at(tree, routes, path)) {
                return Ok(Matched { route, values });
            }
            let serves = |tree: &matchit::Router<usize>| tree.at(path).is_ok();
            allowed.extend(trees.iter().filter(|(_, tree)| serves(tree)).map(|(method, _)| method.clone()));
        }
        if allowed.is_empty() {
            return Err(NoMatch::Path);
        }
        allowed.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        allowed.dedup();
        Err(NoMatch::Method(allowed))
    }
}

fn at<'t, 'p>(
    tree: &matchit::Router<usize>,
    routes: &'t [Arc<Route>],
    path: &'p str,
) -> Option<(&'t Arc<Route>, Vec<&'p str>)> {
    let found = tree.at(path).ok()?;
    // The router returns the variables in the order of the path.
    let values = found.params.iter().map(|(_, value)| value).collect();
    Some((routes.get(*found.value)?, values))
}
