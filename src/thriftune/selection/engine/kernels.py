"""Compiled inner loops. Only engines import this module: numba takes a second to load and more to compile."""

from __future__ import annotations

import numba
import numpy as np

_VECTORISE = {"nnan", "nsz", "contract"}
_SUM = {"nnan", "nsz", "contract", "reassoc"}

_LOG2E = np.float32(1.4426950408889634)
_LN2_HIGH = np.float32(0.693359375)
_LN2_LOW = np.float32(-2.12194440e-4)
_ROUND = np.float32(12582912.0)  # 1.5 * 2**23: adding and subtracting it rounds to an integer
_LOWEST = np.float32(-87.0)
_C = [np.float32(c) for c in (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5)]
_C0, _C1, _C2, _C3, _C4, _C5 = _C
_RUN = 256
_ONE = np.float32(1)
_ZERO = np.float32(0)


@numba.njit(cache=True, nogil=True, fastmath=_VECTORISE, error_model="numpy")
def to_similarity(g, half_i, half_j, scale):
    """Products (b, c) to similarities in place: exp(min(0, scale * (g - half_i - half_j))); scale 0: max(0, g).

    The exponential is Cephes' polynomial (relative error 2e-7), because calls into libm do not vectorise.
    """
    rows, columns = g.shape
    if scale == 0:
        for i in range(rows):
            for j in range(columns):
                g[i, j] = max(g[i, j], _ZERO)
        return
    for i in range(rows):
        h = half_i[i]
        for j in range(columns):
            y = scale * (g[i, j] - h - half_j[j])
            y = min(max(y, _LOWEST), _ZERO)
            k = (y * _LOG2E + _ROUND) - _ROUND
            r = y - k * _LN2_HIGH - k * _LN2_LOW
            p = ((((_C0 * r + _C1) * r + _C2) * r + _C3) * r + _C4) * r + _C5
            p = p * r * r + r + _ONE
            bits = (np.int32(k) + np.int32(127)) << np.int32(23)
            g[i, j] = p * np.int32(bits).view(np.float32)


@numba.njit(cache=True, nogil=True, fastmath=_SUM, error_model="numpy")
def tile_gains(s, both, u_i, u_j, cover_i, cover_j, gain_i, gain_j):
    """Gains of a tile's rows and columns as candidates, under several states of cover.

    Args:
        s: (b, c) similarities.
        both: False on the diagonal, where rows and columns are the same candidates.
        u_i, u_j: (b,), (c,) float32 weights.
        cover_i, cover_j: (states, b), (states, c) float32, the best similarity so far of each row.
        gain_i, gain_j: (states, b), (states, c) float64, added to.
    """
    rows, columns = s.shape
    states = len(cover_i)
    total = np.empty((states, _RUN), np.float32)
    for begin in range(0, columns, _RUN):
        width = np.uint64(min(_RUN, columns - begin))  # unsigned: no check for negative indices, so loops vectorise
        first = np.uint64(begin)
        total[:] = 0
        for i in range(rows):
            w = u_i[i]
            for t in range(states):
                c = cover_i[t, i]
                a = _ZERO
                for j in range(width):
                    v = s[i, first + j] - cover_j[t, first + j]
                    a += u_j[first + j] * (v if v > _ZERO else _ZERO)
                gain_i[t, i] += a
                if both:
                    for j in range(width):
                        v = s[i, first + j] - c
                        total[t, j] += w * (v if v > _ZERO else _ZERO)
        if both:
            for t in range(states):
                for j in range(width):
                    gain_j[t, first + j] += total[t, j]


@numba.njit(cache=True, nogil=True, fastmath=_SUM, error_model="numpy")
def row_gains(s, rows, u, cover, gains):
    """gains[r] = sum_j u_j max(0, s[r, j] - cover_j) for the rows named, in double precision over runs of 256."""
    columns = s.shape[1]
    for r in rows:
        total = 0.0
        for begin in range(0, columns, _RUN):
            first = np.uint64(begin)
            a = _ZERO
            for j in range(np.uint64(min(_RUN, columns - begin))):
                v = s[r, first + j] - cover[first + j]
                a += u[first + j] * (v if v > _ZERO else _ZERO)
            total += a
        gains[r] = total


@numba.njit(cache=True, nogil=True, fastmath=_SUM, error_model="numpy")
def column_gains(s, u, cover, gains, counts):
    """gains[j] += sum_i u_i max(0, s_ij - cover_i); counts[j] += how many terms are positive."""
    rows, columns = s.shape
    for i in range(rows):
        c, w = cover[i], u[i]
        for j in range(np.uint64(columns)):
            v = s[i, j] - c
            gains[j] += w * (v if v > _ZERO else _ZERO)
            counts[j] += np.int32(v > _ZERO)


@numba.njit(cache=True, nogil=True, fastmath=_SUM, error_model="numpy")
def tile_counts(s, both, cover_i, cover_j, count_i, count_j):
    """How many similarities of each row (as candidate) exceed what columns are covered by, and the other way round."""
    rows, columns = s.shape
    for i in range(rows):
        c = cover_i[i]
        count = np.int32(0)
        for j in range(np.uint64(columns)):
            count += np.int32(s[i, j] > cover_j[j])
        count_i[i] += count
        if both:
            for j in range(np.uint64(columns)):
                count_j[j] += np.int32(s[i, j] > c)


@numba.njit(cache=True, nogil=True, fastmath=_SUM, error_model="numpy")
def tile_edges(s, both, cover_i, cover_j, start_i, start_j, index_i, value_i, index_j, value_j):
    """Write the pairs that ``tile_counts`` counted, candidate by candidate, indices within the tile.

    Args:
        start_i, start_j: (b,), (c,) where each candidate's run begins; advanced to where it ends.
        index_i, index_j: uint16; value_i, value_j: float32.
    """
    rows, columns = s.shape
    for i in range(rows):
        c = cover_i[i]
        for begin in range(0, columns, 32):
            first = np.uint64(begin)
            width = np.uint64(min(32, columns - begin))
            most = _LOWEST
            for j in range(width):
                v = s[i, first + j] - min(cover_j[first + j], c) if both else s[i, first + j] - cover_j[first + j]
                most = v if v > most else most
            if most <= _ZERO:
                continue
            for j in range(width):
                v = s[i, first + j]
                if v > cover_j[first + j]:
                    p = start_i[i]
                    index_i[p] = first + j
                    value_i[p] = v
                    start_i[i] = p + 1
                if both and v > c:
                    p = start_j[first + j]
                    index_j[p] = i
                    value_j[p] = v
                    start_j[first + j] = p + 1


@numba.njit(cache=True, nogil=True, inline="never")
def _gain(row, start, length, index, value, u, cover):
    """Gain of a candidate; drops the pairs that can never count again from its list."""
    read = write = start[row]
    end = read + length[row]
    total = 0.0
    while read < end:
        v = index[read]
        more = value[read] - cover[v]
        if more > 0:
            total += u[v] * more
            index[write] = v
            value[write] = value[read]
            write += 1
        read += 1
    length[row] = write - start[row]
    return total


@numba.njit(cache=True, nogil=True)
def list_gains(first, last, start, length, index, value, u, cover, gains):
    """Exact gains of the candidates ``first`` .. ``last - 1``."""
    for row in range(first, last):
        gains[row] = _gain(row, start, length, index, value, u, cover)


@numba.njit(cache=True, nogil=True)
def _sink(gain, row, size, i):
    g, r = gain[i], row[i]
    while True:
        c = 2 * i + 1
        if c >= size:
            break
        if c + 1 < size and (gain[c + 1] > gain[c] or (gain[c + 1] == gain[c] and row[c + 1] < row[c])):
            c += 1
        if gain[c] > g or (gain[c] == g and row[c] < r):
            gain[i], row[i] = gain[c], row[c]
            i = c
        else:
            break
    gain[i], row[i] = g, r


@numba.njit(cache=True, nogil=True)
def lazy_greedy(gain, row, size, fresh, start, length, index, value, u, cover, out_row, out_gain, done, stop):
    """Lazy greedy over lists of pairs, until ``stop`` picks or nothing gains.

    Args:
        gain, row: (n,) heap of upper bounds, best first, lowest row on ties; ``size`` entries.
        fresh: (n,) int32, at how many picks a candidate's gain was last computed.
        start, length, index, value: pairs by candidate; lists shrink.
        done: picks so far; -1 - picks to build the heap first.

    Returns:
        (picks, heap size).
    """
    if done < 0:
        done = -done - 1
        for i in range(size // 2 - 1, -1, -1):
            _sink(gain, row, size, i)
    while done < stop and size > 0:
        best = row[0]
        if fresh[best] != done:
            gain[0] = _gain(best, start, length, index, value, u, cover)
            fresh[best] = done
            _sink(gain, row, size, 0)
            continue
        if gain[0] <= 0:
            break
        out_row[done] = best
        out_gain[done] = gain[0]
        for p in range(start[best], start[best] + length[best]):
            v = index[p]
            if value[p] > cover[v]:
                cover[v] = value[p]
        done += 1
        size -= 1
        gain[0], row[0] = gain[size], row[size]
        _sink(gain, row, size, 0)
    return done, size


@numba.njit(cache=True, nogil=True)
def place_edges(count, index, value, offset, dropped, position, out_index, out_value):
    """Copy each candidate's run of a tile behind what earlier tiles gave it; those of ``dropped`` rows as nothing."""
    read = 0
    for r in range(len(count)):
        write = position[r]
        for _ in range(count[r]):
            v = offset + index[read]
            out_index[write] = v
            out_value[write] = _ZERO if dropped[v] else value[read]
            read += 1
            write += 1
        position[r] = write


@numba.njit(cache=True, nogil=True)
def _keep(value, index, v, i):
    """Put a neighbour into a full heap whose root is the worst: the smallest value, the highest index on ties."""
    size = len(value)
    p = 0
    while True:
        c = 2 * p + 1
        if c >= size:
            break
        if c + 1 < size and (value[c + 1] < value[c] or (value[c + 1] == value[c] and index[c + 1] > index[c])):
            c += 1
        if value[c] < v or (value[c] == v and index[c] > i):
            value[p], index[p] = value[c], index[c]
            p = c
        else:
            break
    value[p], index[p] = v, i


@numba.njit(cache=True, nogil=True, fastmath=_VECTORISE, error_model="numpy")
def join_rows(g, half_i, half_j, first_j, value, index, worst):
    """Offer the columns of a tile of products to its rows as neighbours.

    Args:
        g: (b, c) products; half_i, half_j: half the squared lengths.
        first_j: number of the first column.
        value, index: (b, t) heaps of minus half the squared distance; worst: (b,) float32, their roots.
    """
    rows, columns = g.shape
    buffer = np.empty(32, np.float32)
    for i in range(rows):
        h = half_i[i]
        for begin in range(0, columns, 32):
            first = np.uint64(begin)
            run = np.uint64(min(32, columns - begin))
            most = np.float32(-3e38)
            for j in range(run):
                v = min(g[i, first + j] - h - half_j[first + j], _ZERO)
                buffer[j] = v
                most = v if v > most else most
            if most < worst[i]:
                continue
            for j in range(run):
                v = buffer[j]
                if v > worst[i] or (v == worst[i] and first_j + begin + np.int64(j) < index[i, 0]):
                    _keep(value[i], index[i], v, np.int32(first_j + begin + np.int64(j)))
                    worst[i] = value[i, 0]


@numba.njit(cache=True, nogil=True, fastmath=_VECTORISE, error_model="numpy")
def join_columns(g, half_i, half_j, first_i, value, index, worst):
    """Offer the rows of a tile of products to its columns as neighbours; see ``join_rows``."""
    rows, columns = g.shape
    buffer = np.empty(32, np.float32)
    for i in range(rows):
        h = half_i[i]
        for begin in range(0, columns, 32):
            first = np.uint64(begin)
            run = np.uint64(min(32, columns - begin))
            most = np.float32(-3e38)
            for j in range(run):
                v = min(g[i, first + j] - h - half_j[first + j], _ZERO)
                buffer[j] = v
                v -= worst[first + j]
                most = v if v > most else most
            if most < _ZERO:
                continue
            for j in range(run):
                v, q = buffer[j], first + j
                if v > worst[q] or (v == worst[q] and first_i + i < index[q, 0]):
                    _keep(value[q], index[q], v, np.int32(first_i + i))
                    worst[q] = value[q, 0]


@numba.njit(cache=True, nogil=True)
def reverse_lists(index, value, cover, start, length, out_index, out_value):
    """Neighbour lists (n, t) turned round: for each candidate, the rows that have it as a neighbour.

    Called first with empty outputs, to count into ``length``; then to write behind ``start``.
    """
    n, t = index.shape
    counting = len(out_index) == 0
    for v in range(n):
        for p in range(t):
            a = index[v, p]
            if a >= 0 and value[v, p] > cover[v]:
                if not counting:
                    w = start[a] + length[a]
                    out_index[w] = v
                    out_value[w] = value[v, p]
                length[a] += 1


@numba.njit(cache=True, nogil=True, fastmath=_SUM, error_model="numpy")
def nearer(g, half_row, half_centre, first, squared, nearest):
    """Lower rows' squared distances to their nearest centre by a tile of products with centres ``first ..``."""
    rows, columns = g.shape
    for i in range(rows):
        best = np.float32(-3e38)
        for j in range(np.uint64(columns)):
            v = g[i, j] - half_centre[j]
            best = v if v > best else best
        d = max(np.float32(2) * (half_row[i] - best), _ZERO)
        if d < squared[i]:
            squared[i] = d
            for j in range(columns):
                if g[i, j] - half_centre[j] == best:
                    nearest[i] = first + j
                    break


@numba.njit(cache=True, nogil=True)
def _precise(x, y):
    total = 0.0
    for j in range(len(x)):
        difference = np.float64(x[j]) - np.float64(y[j])
        total += difference * difference
    return total


@numba.njit(cache=True, nogil=True, fastmath=_VECTORISE, error_model="numpy")
def farthest_in_batch(x, half, g, row, squared, nearest, centres, count, outside, noise, limit, out_row, out_squared):
    """Farthest-first picks among a batch, as long as they are farther than anything outside it.

    Args:
        x: (b, d) the batch; half: (b,) half the squared lengths; g: (b, b) products; row: (b,) row numbers, ascending.
        squared, nearest: (b,) squared distance to the nearest centre, and which; updated.
        centres: (capacity, d), ``count`` of them filled; picks are appended.
        outside: no row outside the batch is farther than this.
        noise: squared distances that differ by less are compared in double precision.
        limit: picks at most.

    Returns:
        How many were picked into ``out_row`` and ``out_squared``.
    """
    size = len(x)
    picks = 0
    while picks < limit:
        most = np.float32(-1)
        for i in range(np.uint64(size)):
            most = squared[i] if squared[i] > most else most
        if most < 0 or most <= outside + noise:
            break
        best, pick = -1.0, -1
        for i in range(size):
            if squared[i] >= most - noise and squared[i] >= 0:
                exact = _precise(x[i], centres[nearest[i]])
                if exact > best:
                    best, pick = exact, i
        out_row[picks], out_squared[picks] = pick, best
        centres[count] = x[pick]
        h = half[pick]
        for i in range(size):
            d = max(np.float32(2) * (half[i] + h - g[pick, i]), _ZERO)
            if d < squared[i]:
                squared[i] = d
                nearest[i] = count
        squared[pick] = np.float32(-1)
        picks += 1
        count += 1
    return picks
