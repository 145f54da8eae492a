package dev.pocketspec

import dev.pocketspec.bundle.PocketspecException
import dev.pocketspec.chat.AnswerSettings
import dev.pocketspec.decoding.Stats
import dev.pocketspec.json.Json
import dev.pocketspec.json.JsonObject
import dev.pocketspec.text.Message
import java.io.File
import kotlin.system.exitProcess

/**
 * Answers in turns with Python: `python -m android_demo.check --compare` writes a line of JSON for each question and reads
 * one for each answer. The first line printed is the plan, for Python to use the same, on one thread. Arguments: the
 * bundle's folder, and the library of native operators.
 */
internal class SpeedProgram(private val engine: Engine) {
    /** The plan's sizes. */
    fun plan(): Map<String, Any?> = engine.wholePlan.let { plan ->
        mapOf(
            "context" to plan.context,
            "kernels" to plan.kernels,
            "kv_type" to plan.target.kvType,
            "shape" to if (plan.draft.tree) "tree" else "chain",
            "nodes" to plan.draft.nodes,
            "drafters" to plan.levels.drop(1).map { it.name },
        )
    }

    /** The answer to a question, with the seconds of the whole and of its steps, and of the steps outside ONNX Runtime. */
    fun answer(question: JsonObject): Map<String, Any?> {
        val settings = AnswerSettings(question.int("max_new_tokens"), speculation = question.boolean("speculation"))
        val text = StringBuilder()
        var stats = Stats()
        var sessions = 0.0
        var firstStep = 0.0
        engine.answer(listOf(Message("user", question.text("prompt"))), settings).use { answer ->
            while (answer.hasNext()) {
                val before = engine.sessionNanos
                val chunk = answer.next()
                chunk.pieces.forEach { text.append(it.text) }
                // Before the first step the prompt is read.
                if (stats.steps > 0) sessions += (engine.sessionNanos - before) * 1e-9 else firstStep = chunk.statistics.stepSeconds
                stats = chunk.statistics
            }
        }
        return mapOf(
            "text" to text.toString(),
            "tokens" to stats.tokens,
            "steps" to stats.steps,
            "seconds" to stats.seconds,
            "outside_seconds" to stats.stepSeconds - firstStep - sessions,
        )
    }
}

private fun print(value: Map<String, Any?>) = println(Json.write(value, ascii = true))

fun main(arguments: Array<String>) {
    val (folder, library) = arguments
    val parts = EngineParts(library = File(library), cores = 1)
    try {
        Engine.open(File(folder), Long.MAX_VALUE / 2, parts).use { engine ->
            val program = SpeedProgram(engine)
            print(program.plan())
            for (line in generateSequence(::readLine)) print(program.answer(Json.parseObject(line)))
        }
    } catch (refusal: PocketspecException) {
        System.err.println(refusal.message)
        exitProcess(2)
    }
}
