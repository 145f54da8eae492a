package dev.pocketspec.decoding

/** Values are added in a table with this many columns. */
const val COLUMNS = 512

// Rows of that table that are taken at a time.
private const val ROWS = 64

/**
 * Sums with the same bits on every processor, in double precision; the order of additions is that of
 * `runtime/decoding/exact_math.py`. For one thread at a time.
 */
class ExactSums {
    /** The sums of the last call of [add]. */
    val columns = DoubleArray(COLUMNS)

    private val table by lazy(LazyThreadSafetyMode.NONE) { DoubleArray(ROWS * COLUMNS) }

    /** The sum of the first [size] of [values]; 0 if there are none. */
    fun total(values: FloatArray, size: Int = values.size): Double {
        val count = add(values, size)
        var sum = 0.0
        for (column in 0 until count) sum += columns[column]
        return sum
    }

    /**
     * Writes the sums of values c, c + 512, c + 1024 .. of the first [size] of [values] to [columns], for every column
     * c; the values themselves if they fill no row. Returns how many sums there are.
     *
     * Rows are taken 64 at a time. The second half of them is added to the first (an odd one to the first row) until
     * one row is left, which is added to the sums. Values that fill no row are added last.
     */
    fun add(values: FloatArray, size: Int): Int {
        val rows = size / COLUMNS
        if (rows == 0) {
            for (index in 0 until size) columns[index] = values[index].toDouble()
            return size
        }
        columns.fill(0.0)
        for (start in 0 until rows step ROWS) addRows(values, start, minOf(ROWS, rows - start))
        for (index in rows * COLUMNS until size) columns[index - rows * COLUMNS] += values[index].toDouble()
        return COLUMNS
    }

    private fun addRows(values: FloatArray, first: Int, rows: Int) {
        val table = table
        val start = first * COLUMNS
        for (index in 0 until rows * COLUMNS) table[index] = values[start + index].toDouble()
        var count = rows
        while (count > 1) {
            val half = count / 2
            if (count % 2 == 1) {
                val last = (count - 1) * COLUMNS
                for (column in 0 until COLUMNS) table[column] += table[last + column]
            }
            val size = half * COLUMNS
            for (index in 0 until size) table[index] += table[size + index]
            count = half
        }
        for (column in 0 until COLUMNS) columns[column] += table[column]
    }
}
