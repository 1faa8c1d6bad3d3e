//! The info room seen from outside: documents, changes, filters, the schema, and what must be refused.

#[cfg(test)]
mod changes;
#[cfg(test)]
mod documents;
#[cfg(test)]
mod filters;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod schema;
#[cfg(test)]
mod worlds;
