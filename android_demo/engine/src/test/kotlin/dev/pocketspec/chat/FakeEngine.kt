package dev.pocketspec.chat

import dev.pocketspec.bundle.PocketspecException
import dev.pocketspec.bundle.Progress
import dev.pocketspec.decoding.Stats
import dev.pocketspec.decoding.TextPiece
import dev.pocketspec.text.Message
import java.io.File
import java.util.concurrent.CopyOnWriteArrayList
import java.util.concurrent.Semaphore

/** An engine that says "word0 word1 ..."; each step waits for a permit of [steps]. */
class FakeEngine(
    private val world: FakeWorld,
    budgetBytes: Long,
    private val steps: Semaphore = world.steps,
) : ChatEngine {
    override var plan: PlanView = planFor(budgetBytes)
        private set

    override fun memory() = MemoryReading(plan.plannedBytes, 1)

    override fun answer(messages: List<Message>, settings: AnswerSettings): AnswerStream {
        world.log("answer ${messages.joinToString("|") { "${it.role}:${it.content}" }} ${settings.speculation}")
        world.failures.poll()?.let { throw it }
        return FakeAnswer(settings)
    }

    override fun setBudget(bytes: Long) {
        world.log("budget $bytes")
        plan = planFor(bytes)
    }

    override fun close() = world.log("close")

    private fun planFor(bytes: Long): PlanView {
        if (bytes < SMALLEST) throw PocketspecException("The budget of $bytes bytes is below $SMALLEST; allow more.")
        world.used = bytes
        val parts = listOf(PlanPart("target weights", SMALLEST / 2), PlanPart("KV cache", bytes - SMALLEST / 2))
        return PlanView(bytes, bytes, SMALLEST, bytes.toInt(), listOf("target", "drafter"), parts)
    }

    private inner class FakeAnswer(private val settings: AnswerSettings) : AnswerStream {
        private var statistics = Stats(promptTokens = 3)

        @Volatile
        private var isCancelled = false

        override fun cancel() {
            isCancelled = true
        }

        override fun hasNext() = statistics.finish == null

        override fun next(): AnswerChunk {
            steps.acquire()
            world.failures.poll()?.let { throw it }
            world.beforeStep(plan)
            val number = statistics.steps
            val pieces = mutableListOf(TextPiece("word$number ", "target"))
            if (settings.speculation) pieces.add(0, TextPiece("drafted$number ", "drafter"))
            val finish = if (isCancelled) "cancelled" else if (number + 1 == world.answerSteps) "eos" else null
            statistics = statistics.copy(
                tokens = statistics.tokens + pieces.size,
                steps = number + 1,
                drafted = statistics.drafted + pieces.size - 1,
                accepted = statistics.accepted + pieces.size - 1,
                finish = finish,
            )
            return AnswerChunk(pieces, statistics)
        }

        override fun close() = world.log("answer closed")
    }

    companion object {
        const val SMALLEST = 1_000L
    }
}

/** What fake engines share: what was asked of them, what they are to fail with, and their memory. */
class FakeWorld : ChatEngineFactory {
    val calls = CopyOnWriteArrayList<String>()
    val failures = java.util.concurrent.ConcurrentLinkedQueue<Throwable>()
    val openFailures = java.util.concurrent.ConcurrentLinkedQueue<Throwable>()
    val steps = Semaphore(Int.MAX_VALUE / 2)

    @Volatile
    var used = 0L

    @Volatile
    var answerSteps = 3

    @Volatile
    var beforeStep: (PlanView) -> Unit = {}

    fun log(call: String) {
        calls.add(call)
    }

    override fun open(folder: File, budgetBytes: Long, progress: Progress): ChatEngine {
        log("open ${folder.name} $budgetBytes")
        progress.report("Opening", 0, 1)
        openFailures.poll()?.let { throw it }
        return FakeEngine(this, budgetBytes)
    }
}
