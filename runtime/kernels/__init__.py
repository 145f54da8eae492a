"""The native operators inside ONNX Runtime: their C++, how it is built, trusted and chosen, and the weights they read.

MatMulPanel, GatherPanel and CachedAttention (domain ``pocketspec``) obey the arithmetic below bit for bit on every
processor, so that a row's result depends on the row alone: not on how many rows run, not on the threads, not on the
instruction set. ``reference`` and ``reference_attention`` are this page in NumPy, and the self-test compares.

A matrix W[N, K] is stored as codes in blocks along K, padded with weights of zero to whole blocks; a weight is (code -
zero point) * scale (``layout`` has the bytes). Everything is float32 with round-to-nearest-even, and nothing is
contracted but the ``fma`` below, which rounds once. For one row x[K] of MatMulPanel:

1. Norm, with a gain g: lane i of 32 sums x[k] * x[k] over k = i, i + 32, .. with fma; lanes i and i + 16 are added,
   then i and i + 8, i + 4, i + 2, i + 1. r = 1 / sqrt(sum / K + epsilon); x[k] becomes (x[k] * r) * g[k].
2. Quantization, block by block: m = max |x|. If m is infinite or not a number, codes are 0 and the scale is NaN, so
   that every output of the row is NaN. If m < 1e-30, codes and scale are 0. Else the scale is m / 127 and a code is
   round(x * (127 / m)), which lies in -127 .. 127.
3. Product, column by column: sum = 0; block by block, d is the exact sum of (code - zero point) * code of x, and
   sum = fma(float(d), weight scale * scale of x, sum). |d| < 2^24, so float(d) is exact.
4. Finish: + bias; in gated matrices act(gate) * up, where act(v) is v / (1 + exp(-v)) for silu, and for gelu_tanh
   v / (1 + exp(u * -2)), u = fma((0.044715 * v) * v, v, v) * 0.7978845608; + residual.
   exp(v): v is clamped to [-87, 88]; n = round(v * 1.44269504); f = fma(n, -0.693359375, v), f = fma(n, 2.12194440e-4,
   f); the polynomial of Cephes' expf in Horner form with fma; times 2^n.

GatherPanel gives ((code - zero point) * scale) * factor. For one row of CachedAttention, which attends to the keys of
the cache and to those of its step up to its own, except where they are hidden or out of its window:

1. Heads: norm of a query or key over its head, as above, where there is a gain; then rotary: the pair a, b becomes
   fma(b, -sin, a * cos), fma(a, sin, b * cos). A query is multiplied by the scale.
2. Cache: a row of keys or values is stored as it is, or rounded to float16, or quantized as one block, or mixed and
   quantized to four bits. What is read is the stored row.
   Mixing, which leaves no dimension that sticks out: n is the largest power of two that divides D; for h = n / 2,
   n / 4, .., 1, in every block of n values, the pair a = x[i], b = x[i + h] becomes a + b, a - b. Mixing twice
   multiplies by n. Then half by half: m = max |x|; codes and scale are as above if m is not finite or m < 1e-30. Else
   the scale is m / 8, negative where a value is m itself, rounded to bfloat16 with ties to even, and a code is
   round(x * (1 / scale)), kept within -8 .. 7. Byte i of D / 2 has the code of i plus 8 in its low half and that of
   i + D / 2 plus 8 in its high half; the two scales follow. A value is code * scale, still mixed.
3. Scores: with keys of four bits the query is mixed first, then multiplied by 1 / n. s = 0; s = fma(q[d], k[d], s) for
   d = 0, 1, ..; with a softcap, s = cap * tanh(s / cap), where tanh(v) = 1 + -2 / (1 + exp(v * 2)); + bias.
4. Weights: the keys it sees are numbered in order, n = 0, 1, ..; w[n] = exp(s[n] - max s). Lane i of 16 sums w[n] over
   n = i, i + 16, ..; lanes i and i + 8 are added, then i + 4, i + 2, i + 1.
5. Values: y[d] = 0; y[d] = fma(w[n], v[n][d], y[d]) for n = 0, 1, ..; y[d] is multiplied by 1 / (sum of w). With values
   of four bits y is mixed then, and multiplied by 1 / n.
"""
