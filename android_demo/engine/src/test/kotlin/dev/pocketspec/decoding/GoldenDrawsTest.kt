package dev.pocketspec.decoding

import dev.pocketspec.json.Json
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.security.MessageDigest
import org.junit.Assert.assertEquals
import org.junit.Assume.assumeTrue
import org.junit.Test

/** The golden draws of the Python side, `tests/runtime/decoding/golden_draws.json`: the same bits here. */
class GoldenDrawsTest {
    private val sampler = Sampler()

    @Test
    fun distributionsAndDrawsHavePythonsBits() {
        val golden = golden()
        for (vocab in listOf(17, 5000, 151_936)) {
            for ((name, params) in SETTINGS) {
                assertEquals("$name, $vocab", golden["$name, $vocab tokens"], draws(vocab, params))
            }
        }
    }

    private fun draws(vocab: Int, params: SamplingParams): List<Any> {
        val found = ArrayList<Any>()
        var row = FloatArray(0)
        for (position in 0 until 6) {
            row = logits(position.toLong(), vocab)
            sampler.probabilities(row, vocab, Tokens(intArrayOf(3, 1, 4, 1, 5)), NO_TOKENS, params)
            for (stream in listOf(RandomStream.TARGET, RandomStream.DRAFTER)) {
                found.add(sampler.draw(row, vocab, uniform(params.seed, position, stream)).toLong())
            }
        }
        found.add(digest(row))
        return found
    }

    private fun logits(seed: Long, vocab: Int): FloatArray {
        val numbers = Numbers(seed, vocab.toLong())
        val bell = numbers.bell(vocab)
        val even = numbers.uniform(0.0, 1.0, vocab)
        val row = FloatArray(vocab) { bell[it] * 2f + even[it] * 3f }
        row[vocab / 3] = Float.NEGATIVE_INFINITY
        return row
    }

    private fun digest(row: FloatArray): String {
        val bytes = ByteBuffer.allocate(4 * row.size).order(ByteOrder.LITTLE_ENDIAN)
        row.forEach { bytes.putFloat(it) }
        return MessageDigest.getInstance("SHA-256").digest(bytes.array()).joinToString("") { "%02x".format(it) }
    }

    private fun golden(): Map<*, *> {
        val file = File(System.getProperty("pocketspec.root") ?: ".", "tests/runtime/decoding/golden_draws.json")
        assumeTrue("$file is missing", file.isFile)
        return Json.parse(file.readText()) as Map<*, *>
    }

    private companion object {
        const val SEED = 20261129L
        val SETTINGS = mapOf(
            "as the model says" to SamplingParams(1.0, seed = SEED),
            "cooler" to SamplingParams(0.7, seed = SEED),
            "hot" to SamplingParams(3.0, seed = SEED),
            "filtered" to SamplingParams(0.8, 40, 0.9, 0.02, 1.1, SEED),
            "top_p" to SamplingParams(0.9, topP = 0.95, seed = SEED),
        )
    }
}
