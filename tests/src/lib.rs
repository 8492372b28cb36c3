//! What the suites share: the plane as they start it, and the actors that use it.
