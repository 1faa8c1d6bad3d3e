//! The compositor seen from outside: PUBLISH in, responses and views out, time by hand.

#[cfg(test)]
mod cluster;
#[cfg(test)]
mod leases;
#[cfg(test)]
mod model;
#[cfg(test)]
mod publisher;
#[cfg(test)]
mod rules;
