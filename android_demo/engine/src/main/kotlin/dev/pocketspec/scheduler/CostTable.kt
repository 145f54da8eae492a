package dev.pocketspec.scheduler

import dev.pocketspec.json.Json
import dev.pocketspec.json.JsonException
import dev.pocketspec.json.JsonObject

private const val SCHEMA = 1

/** Seconds of forwards of one level: `seconds[i]` for `rows[i]` rows, both increasing. */
class RowCosts(val rows: IntArray, seconds: DoubleArray) {
    /** More rows never cost less: where noise says so, the larger of the two is taken. */
    val seconds = seconds.copyOf().also { for (i in 1 until it.size) it[i] = maxOf(it[i], it[i - 1]) }

    /** Seconds of [count] rows: interpolated, extrapolated beyond the last, constant before the first. */
    fun of(count: Int): Double {
        if (rows.size == 1 || count <= rows[0]) return seconds[0]
        val low = minOf(rows.indexOfLast { it <= count }, rows.size - 2)
        val share = (count - rows[low]).toDouble() / (rows[low + 1] - rows[low])
        return seconds[low] + share * (seconds[low + 1] - seconds[low])
    }
}

/**
 * What forwards and the decoding loop cost on this device, as measured here: [levels] by name, [stepSeconds] of the
 * loop's own work in every step, [suffixSeconds] of a draft of the suffix drafter.
 */
class CostTable(val levels: Map<String, RowCosts>, val stepSeconds: Double, val suffixSeconds: Double) {
    fun toJson(): String = Json.write(
        mapOf(
            "schema" to SCHEMA.toLong(),
            "step_seconds" to stepSeconds,
            "suffix_seconds" to suffixSeconds,
            "levels" to levels.mapValues { (_, costs) ->
                mapOf("rows" to costs.rows.map { it.toLong() }, "seconds" to costs.seconds.toList())
            },
        ),
    )

    companion object {
        /** The table in [text], as [toJson] wrote it; JsonException says what is wrong. */
        fun parse(text: String): CostTable {
            val data = Json.parseObject(text, "the table of costs")
            data.int("schema", SCHEMA..SCHEMA)
            val levels = data.child("levels")
            return CostTable(
                levels.names.associateWith { rowCosts(it, levels.child(it)) },
                data.double("step_seconds", 0.0),
                data.double("suffix_seconds", 0.0),
            )
        }

        private fun rowCosts(name: String, level: JsonObject): RowCosts {
            val rows = level.ints("rows", 1..Int.MAX_VALUE)
            val seconds = level.list("seconds").map { it as? Double ?: level.fail("seconds", "a list of times") }
            val increase = rows.isNotEmpty() && (1 until rows.size).all { rows[it] > rows[it - 1] }
            if (!increase || rows.size != seconds.size) {
                throw JsonException("the rows of $name do not increase, or have not a time each")
            }
            if (!seconds.all { it > 0 && it < Double.MAX_VALUE }) level.fail("seconds", "a list of times")
            return RowCosts(rows, seconds.toDoubleArray())
        }
    }
}
