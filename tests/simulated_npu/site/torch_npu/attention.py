"""The fused attention that transformers' flash_attention_2 calls on Ascend, written out in plain torch."""

import torch


def npu_fusion_attention(
    query,
    key,
    value,
    head_num,
    input_layout,
    pse=None,
    padding_mask=None,
    atten_mask=None,
    scale=1.0,
    keep_prob=1.0,
    actual_seq_qlen=None,
    actual_seq_kvlen=None,
    sparse_mode=0,
    **_,
):
    """Attention of layout BSND, or TND with the ends of each sequence; a tuple whose first entry is the output.

    ``atten_mask`` must be the compressed causal mask, aligned top left (sparse_mode 2) or bottom right (3).
    """
    if pse is not None or padding_mask is not None or (atten_mask is None) != (sparse_mode == 0):
        raise NotImplementedError("the simulated fused attention has no such arguments")
    if atten_mask is not None and (atten_mask.shape != (2048, 2048) or atten_mask.device != query.device):
        raise RuntimeError("atten_mask of sparse_mode 2 and 3 is [2048, 2048] on the query's device")
    if input_layout == "BSND":
        rows = [_attend(*row, scale, keep_prob, sparse_mode) for row in zip(query, key, value, strict=True)]
        return (torch.stack(rows),)
    if input_layout != "TND":
        raise NotImplementedError(f"input_layout {input_layout}")
    pieces, at_query, at_key = [], 0, 0
    for end_query, end_key in zip(actual_seq_qlen, actual_seq_kvlen, strict=True):
        part = (query[at_query:end_query], key[at_key:end_key], value[at_key:end_key])
        pieces.append(_attend(*part, scale, keep_prob, sparse_mode))
        at_query, at_key = end_query, end_key
    return (torch.cat(pieces),)


def _attend(query, key, value, scale, keep_prob, sparse_mode):
    """``[S, N, D]`` queries; keys and values may have fewer heads."""
    groups, dtype = query.shape[1] // key.shape[1], query.dtype
    query = query.transpose(0, 1).float()
    key, value = (part.transpose(0, 1).repeat_interleave(groups, 0).float() for part in (key, value))
    scores = query @ key.transpose(1, 2) * scale
    if sparse_mode:
        shift = 0 if sparse_mode == 2 else key.shape[1] - query.shape[1]
        allowed = torch.ones(scores.shape[1:], dtype=torch.bool, device=scores.device).tril(shift)
        scores = scores.masked_fill(~allowed, float("-inf"))
    weights = torch.nn.functional.dropout(scores.softmax(-1), 1.0 - keep_prob)
    return (weights @ value).transpose(0, 1).to(dtype)
