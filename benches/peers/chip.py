"""Shares of the machine's limits that online figures reach, from what `offline` says of the same model. Pure."""

import bars


def share(bar, rows):
    """How near Quire came to the chip in a bar's figure, 0 to 1; `None` where the rows do not say.

    The larger of the shares of bandwidth and of arithmetic; both are of useful work alone.
    """
    ours = [row for row in rows if row["name"] == bars.OURS and bars.is_valid(row)]
    selected = [row for row in ours if bar.selects(row) and bars.counts(bar, row)]
    if not selected:
        return None
    if bar.where["part"] == "offline":
        return best_share(selected[0])
    costs = Costs.of(ours)
    if costs is None:
        return None
    if bar.figure is bars.RATE:
        return max(costs.online_share(row) for row in selected)
    if bar.figure is bars.TTFT99:
        users = bar.where["users"]
        return max(costs.first_wave_share(row, users) for row in selected)
    return None


def best_share(row):
    return max(row["memory_share"], row["arithmetic_share"])


class Costs:
    """Seconds of the chip at its limits."""

    def __init__(self, prefill, decodes):
        # Of one token's arithmetic.
        self.prompt_token = prefill["arithmetic_share"] / prefill["rate"]
        self.output_token = decodes[-1]["arithmetic_share"] / decodes[-1]["rate"]
        # Of reading for one decode step: the weights, and the keys and values of each sequence.
        reads = [
            (row["batch"], row["memory_share"] * row["batch"] / row["rate"]) for row in decodes
        ]
        (small, first), (large, last) = reads[0], reads[-1]
        self.sequence_read = (last - first) / (large - small) if large > small else 0.0
        self.weights_read = first - small * self.sequence_read

    @classmethod
    def of(cls, rows):
        offline = [row for row in rows if row["part"] == "offline"]
        prefill = next((row for row in offline if row["phase"] == "prefill"), None)
        decodes = {row["batch"]: row for row in offline if row["phase"] == "decode"}
        if prefill is None or not decodes:
            return None
        return cls(prefill, [decodes[batch] for batch in sorted(decodes)])

    def online_share(self, row):
        """Of `rate` output tokens a second and the prompts that they belong to."""
        outputs_per_request = row["rate"] * row["seconds"] / row["requests"]
        prompt_rate = row["rate"] / outputs_per_request * row["prompt_tokens"]
        arithmetic = row["rate"] * self.output_token + prompt_rate * self.prompt_token
        steps = row["rate"] / row["users"]
        memory = steps * (self.weights_read + row["users"] * self.sequence_read)
        return max(arithmetic, memory)

    def first_wave_share(self, row, users):
        """The prompts of all users arrive at once: the last one's first token can come no sooner."""
        return users * row["prompt_tokens"] * self.prompt_token / (row["ttft99"] / 1e3)
