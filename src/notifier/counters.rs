//! What a shard counts. Every drop, refusal, retransmission, abandonment and hand-over has its number here, so that
//! nothing is lost in silence.

use crate::counters::counters;

counters! {
    /// Messages that arrived: requests and responses.
    received,
    /// Messages without sense: neither SIP nor answerable.
    garbage,
    /// Requests answered 4xx, 5xx or 6xx.
    refused,
    /// Requests dropped because the turn's batch had no room for an answer.
    response_overflows,
    /// SUBSCRIBEs that made a subscription, fetches included.
    subscribed,
    /// SUBSCRIBEs that refreshed one.
    refreshed,
    /// SUBSCRIBEs with Expires: 0 in a dialog.
    unsubscribed,
    /// Requests recognised as repeats and answered from the subscription.
    repeats,
    /// Out-of-dialog requests or refreshes handed to the shard they belong to.
    handed_over,
    /// PUBLISH requests passed to the compositor.
    publishes,
    /// NOTIFY transactions begun.
    notifies,
    /// NOTIFYs sent again (Timer E).
    retransmissions,
    /// NOTIFYs answered 2xx.
    acknowledged,
    /// NOTIFYs answered otherwise.
    rejected,
    /// NOTIFYs whose Timer F ran out.
    timeouts,
    /// NOTIFYs given up because a SUBSCRIBE asked for the state anew.
    abandoned,
    /// Answers that match no outstanding NOTIFY.
    late_answers,
    /// Subscriptions that ended by their own time.
    expired,
    /// Subscriptions removed because the subscriber was gone (RFC 6665 4.2.2).
    removed,
    /// Requests refused for want of room: too many subscriptions, filters or unproven ones of one network, or too much that
    /// waits for the control thread.
    full,
    /// NOTIFYs ended because superseded documents held more memory than they may.
    bodies_evicted,
    /// Servers that fit into no datagram and were left out of a view sent by UDP.
    oversize_entries,
    /// Connections that could not be opened or broke with a NOTIFY outstanding.
    transport_errors,
}

#[cfg(test)]
mod tests {
    use super::Counters;

    #[test]
    fn shards_add_up() {
        let mut sum = Counters {
            notifies: 2,
            ..Counters::default()
        };
        sum.add(&Counters {
            notifies: 3,
            removed: 1,
            ..Counters::default()
        });
        assert_eq!(
            sum.each()
                .filter(|&(_, count)| count > 0)
                .collect::<Vec<_>>(),
            [("notifies", 5), ("removed", 1)]
        );
    }
}
