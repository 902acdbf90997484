"""Moving a trained model's weights: out of ZeRO's shards, over a broadcast group, into the rollout engines."""
