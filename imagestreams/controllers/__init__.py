"""Says when: queues, the schedule and the reconcilers that carry keys to decisions."""
