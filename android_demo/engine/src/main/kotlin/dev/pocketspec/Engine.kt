package dev.pocketspec

import dev.pocketspec.bundle.Bundle
import dev.pocketspec.bundle.Manifest
import dev.pocketspec.bundle.Progress
import dev.pocketspec.chat.AnswerSettings
import dev.pocketspec.chat.AnswerStream
import dev.pocketspec.chat.ChatEngine
import dev.pocketspec.chat.MemoryReading
import dev.pocketspec.chat.PlanPart
import dev.pocketspec.chat.PlanView
import dev.pocketspec.decoding.Context
import dev.pocketspec.decoding.Decoding
import dev.pocketspec.decoding.SamplingParams
import dev.pocketspec.decoding.Stats
import dev.pocketspec.decoding.StopRule
import dev.pocketspec.decoding.StopText
import dev.pocketspec.decoding.TextChunks
import dev.pocketspec.decoding.Tokens
import dev.pocketspec.decoding.requireRoom
import dev.pocketspec.decoding.verifierFor
import dev.pocketspec.models.Arena
import dev.pocketspec.models.FirstSession
import dev.pocketspec.models.Kernels
import dev.pocketspec.models.Levels
import dev.pocketspec.models.PackedWeights
import dev.pocketspec.plan.Plan
import dev.pocketspec.plan.PlanRequest
import dev.pocketspec.plan.PlanTable
import dev.pocketspec.plan.PlanTableReader
import dev.pocketspec.text.ChatTemplate
import dev.pocketspec.text.Message
import dev.pocketspec.text.Tokenizer
import dev.pocketspec.text.TokenHistory
import dev.pocketspec.text.TokenizerFile
import dev.pocketspec.text.template.TemplateFiles
import java.io.File

/**
 * One open bundle under one plan: the place where all parts meet.
 *
 * A bundle that does not fit the budget is refused before anything of it is loaded. The KV cache is kept from answer to
 * answer, so what it holds of a conversation is not read again. Any thread may cancel an answer and close the engine;
 * closing waits for the forward that runs.
 */
class Engine private constructor(
    private val manifest: Manifest,
    private val table: PlanTable,
    private val memory: OwnMemory,
    private val text: EngineText,
    private val turns: Turns,
    private val models: OpenModels,
    private val speculation: Speculation,
) : ChatEngine {
    /** The plan in force with all sizes. */
    val wholePlan: Plan get() = models.plan

    /** Nanoseconds within ONNX Runtime so far. */
    internal val sessionNanos: Long get() = (models.drafting.values + models.target).sumOf { it.sessionNanos }

    override val plan: PlanView get() = models.plan.view()

    override fun memory(): MemoryReading = memory.reading()

    override fun answer(messages: List<Message>, settings: AnswerSettings): AnswerStream =
        answer(settings) { text.encode(messages, it) }

    /** As [answer], for a text that is continued as it is. */
    fun continueText(beginning: String, settings: AnswerSettings): AnswerStream =
        answer(settings) { text.tokenizer.encode(beginning) }

    private fun answer(settings: AnswerSettings, prompt: (EngineAnswer) -> IntArray): AnswerStream {
        val answer = EngineAnswer(turns) { begin(it, prompt(it), settings) }
        turns.begin(answer)
        return answer
    }

    override fun setBudget(bytes: Long) = turns.alone { models.follow(table.choose(models.plan.within(bytes))) }

    override fun close() = turns.close { models.close() }

    private fun begin(answer: EngineAnswer, prompt: IntArray, settings: AnswerSettings): TextChunks {
        val sampling = SamplingParams(temperature = settings.temperature, seed = settings.seed)
        val context = Context(models.plan.context, sampling)
        requireRoom(prompt.size, context.capacity)
        context.hold(prompt)
        val cached = models.target.cache.tokens.sharedPrefix(Tokens(prompt))
        val stop = StopRule(manifest.target.endTokens.filter { it >= 0 }.toSet(), settings.maxNewTokens)
        val scheduler = speculation.scheduler(context, settings.speculation)
        val steps = Decoding(models.target, context, models, scheduler, verifierFor(sampling), stop)
        val stats = Stats(promptTokens = prompt.size, cachedTokens = minOf(cached, prompt.size - 1))
        return TextChunks(answer.untilCancelled(steps), stats, text.tokenizer.decoder(prompt), StopText())
    }

    /** What another plan with the same text is chosen for: context, kernels and KV type stay. */
    private fun Plan.within(bytes: Long) = PlanRequest(bytes, kernels, process, context, target.kvType)

    private fun Plan.view() = PlanView(
        budgetBytes = budgetBytes,
        plannedBytes = neededBytes,
        smallestBytes = table.smallestBytes(within(0)),
        contextTokens = context,
        levels = levels.map { it.name },
        parts = parts().map { PlanPart(it.name, it.bytes) },
    )

    companion object {
        /**
         * Opens the bundle in [folder] within [budgetBytes]; PocketspecException says why it cannot.
         *
         * Files are held against their hashes, then the plan is chosen, and only then is anything loaded.
         */
        fun open(folder: File, budgetBytes: Long, parts: EngineParts, progress: Progress = Progress { _, _, _ -> }): Engine {
            val bundle = Bundle.read(folder)
            val kernels = kernels(bundle, parts)
            FirstSession.run(kernels)
            val process = parts.memory.process()
            bundle.verify(progress)
            val table = PlanTableReader.read(bundle)
            val plan = table.choose(PlanRequest(budgetBytes, kernels.name, process, parts.context))
            progress.report("Reading the tokenizer", 0, 1)
            val text = EngineText.open(bundle)
            progress.report("Opening the models", 0, 1)
            val turns = Turns()
            val levels = Levels(bundle, kernels, Arena(parts.allocator), parts.cores)
            val models = OpenModels(levels, plan, turns::checkForward)
            try {
                val costs = Speculation.costs(bundle, models, kernels.key, progress)
                return Engine(bundle.manifest, table, parts.memory, text, turns, models, Speculation(models, bundle.manifest, costs))
            } catch (error: Throwable) {
                models.close()
                throw error
            }
        }

        /** The native operators where they and the packed weights of all levels that have them are there. */
        private fun kernels(bundle: Bundle, parts: EngineParts): Kernels {
            val native = bundle.manifest.levels.filter { it.native != null }
            val isUsable = parts.library?.isFile == true && native.any { it.role == Manifest.TARGET } &&
                native.all { PackedWeights(bundle, it).fault() == null }
            return if (isUsable) Kernels(parts.library) else Kernels.ofOnnxRuntime
        }
    }
}

/** Text in, tokens out, and back; [template] null: the model continues texts. */
internal class EngineText(val tokenizer: Tokenizer, private val template: ChatTemplate?) {
    private val history = TokenHistory(tokenizer)
    private var answered: EngineAnswer? = null

    /**
     * The tokens of a conversation, which [answer] is to answer: earlier answers have those that they were given with.
     *
     * A template writes the begin token itself, if the model wants one. A model without one continues the last message.
     */
    fun encode(messages: List<Message>, answer: EngineAnswer): IntArray {
        if (template == null) return tokenizer.encode(messages.last().content)
        answered?.let { history.addAnswer(it.tokens.toIntArray(), it.text, it.hasEnded) }
        answered = answer
        return history.encode(template.render(messages))
    }

    companion object {
        fun open(bundle: Bundle): EngineText =
            EngineText(TokenizerFile.open(bundle.file("tokenizer.json")), TemplateFiles.open(bundle.folder))
    }
}
