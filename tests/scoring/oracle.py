"""An independent computation of scores: full-sequence logits without cache, padding or batches, reduced by scipy."""

import numpy as np
import scipy.special
import scipy.stats
import torch


def greedy(model, ids, most, stops):
    """Greedy answer by plain repeated forwards."""
    sequence = list(ids)
    for _ in range(most):
        with torch.no_grad():
            token = int(model(torch.tensor([sequence])).logits[0, -1].argmax())
        sequence.append(token)
        if token in stops:
            break
    return sequence[len(ids) :]


def scores(model, ids, answer, user):
    """Every column of one prompt from one forward over prompt and answer."""
    sequence = torch.tensor([[*ids, *answer]])
    with torch.no_grad():
        logits = model(sequence).logits[0].double().numpy()
    p = scipy.special.softmax(logits, axis=1)
    steps = p[len(ids) - 1 : -1]
    entropy = scipy.stats.entropy(steps, axis=1)
    nll = -np.log(steps[np.arange(len(answer)), answer])
    top = np.sort(steps, axis=1)
    margin = 1 - (top[:, -1] - top[:, -2])
    own = [-np.log(p[i - 1, ids[i]]) for i in range(1, len(ids)) if user[i]]
    return {
        "mean_entropy": entropy.mean(),
        "max_entropy": entropy.max(),
        "least_confidence": nll.sum(),
        "mean_nll": nll.mean(),
        "mean_margin": margin.mean(),
        "min_margin": margin.max(),
        "prompt_nll": np.mean(own) if own else None,
    }


def embedding(model, ids, user, layer, pooling):
    """Pooled hidden state of one prompt from transformers' own list of hidden states."""
    with torch.no_grad():
        hidden = model(torch.tensor([list(ids)]), output_hidden_states=True).hidden_states[layer][0].double().numpy()
    rows = [i for i in range(len(ids)) if user[i]]
    if len(rows) > 1 and rows[0] == 0:
        rows = rows[1:]
    if not rows:
        rows = [len(ids) - 1]
    weights = {"mean": np.ones(len(rows)), "weighted": np.arange(1.0, len(rows) + 1), "last": np.eye(len(rows))[-1]}
    return np.average(hidden[rows], axis=0, weights=weights[pooling])
