package dev.pocketspec.chat

import dev.pocketspec.bundle.CancelledException
import dev.pocketspec.bundle.PocketspecException
import dev.pocketspec.bundle.Progress
import java.io.File
import java.util.concurrent.atomic.AtomicBoolean

/** Brings a bundle into the app's storage, and returns its folder. */
fun interface Importing {
    fun run(progress: Progress): File
}

/**
 * What happens on the engine's thread: importing, opening, answering, and planning again. Results and errors go into
 * the state; no exception leaves it.
 */
class EngineWorker(
    private val engines: ChatEngineFactory,
    private val holder: StateHolder,
    private val keeper: BudgetKeeper,
    private val saver: ConversationSaver,
) {
    private var engine: ChatEngine? = null
    private val isCancelled = AtomicBoolean()

    @Volatile
    private var answering: AnswerRun? = null

    /** From any thread: ends the answer, the import or the opening that runs. */
    fun stop() {
        isCancelled.set(true)
        answering?.stop()
    }

    /** Before new work is given: what was stopped until now does not count for it. */
    fun begin() = isCancelled.set(false)

    /** Imports, and opens what was imported. */
    fun import(importing: Importing) {
        val folder = guarded { importing.run(::report) }
        if (folder == null) holder.update { it.copy(phase = idle(), progress = null) } else open(folder)
    }

    /** Opens the bundle in [folder] instead of the open one. */
    fun open(folder: File) {
        holder.update { it.copy(phase = Phase.OPENING, bundle = folder.path, error = null, canRetry = false) }
        release()
        guarded {
            val opened = engines.open(folder, keeper.wanted(), ::report)
            engine = opened
            saver.save()
        }
        val plan = engine?.plan
        holder.update {
            it.copy(phase = idle(), progress = null, plan = plan, canRetry = plan == null || it.hasQuestion)
        }
        showMemory()
    }

    /** Answers the last message, and keeps whatever came of it. */
    fun answer() {
        val open = engine
        if (open == null) {
            holder.update { it.copy(phase = idle(), streaming = null, canRetry = true) }
            return
        }
        val run = AnswerRun(open)
        answering = run
        if (isCancelled.get()) run.stop()
        val settings = AnswerSettings(speculation = holder.state.speculation)
        val finished = guarded { run.run(holder.state.messages, settings, ::applyBudget, ::show) }
        answering = null
        holder.update { it.answered(finished == null) }
        showMemory()
        guarded { saver.save() }
        holder.update { it.copy(phase = idle()) }
    }

    /** Plans again if the budget that should be in force is another. */
    fun applyBudget() {
        val open = engine ?: return
        val bytes = keeper.due(open.plan) ?: return
        try {
            open.setBudget(bytes)
        } catch (error: PocketspecException) {
            val asked = keeper.wanted() == bytes
            keeper.refused(bytes, open.plan.budgetBytes)
            if (asked) holder.update { it.copy(error = error.message) }
        }
        holder.update { it.copy(plan = open.plan, budgetBytes = keeper.wanted()) }
        showMemory()
    }

    /** Closes the engine. */
    fun release() {
        val open = engine
        engine = null
        guarded { open?.close() }
        holder.update { it.copy(plan = null, memory = null) }
    }

    private fun show(chunk: AnswerChunk) {
        val memory = engine?.memory()
        holder.update {
            it.copy(streaming = it.streaming?.plus(chunk.pieces), statistics = chunk.statistics, memory = memory)
        }
        saver.saveNowAndThen()
    }

    private fun ChatState.answered(hasFailed: Boolean): ChatState {
        val finish = if (hasFailed) "failed" else statistics?.finish
        val answer = streaming?.takeIf { it.pieces.isNotEmpty() }?.copy(finish = finish)
        val all = if (answer == null) messages else messages + answer
        return copy(messages = all, streaming = null, canRetry = hasQuestion)
    }

    private fun showMemory() = guarded { holder.update { it.copy(memory = engine?.memory()) } }

    private fun idle() = if (engine == null) Phase.NO_BUNDLE else Phase.READY

    private fun report(stage: String, done: Long, total: Long) {
        if (isCancelled.get()) throw CancelledException()
        holder.update { it.copy(progress = ProgressView(stage, done, total)) }
    }

    /** What [action] returns; null if it failed, and the state has the sentence. */
    private fun <T> guarded(action: () -> T): T? {
        try {
            return action()
        } catch (error: PocketspecException) {
            fail(error.message)
        } catch (_: CancelledException) {
            fail(null)
        } catch (error: OutOfMemoryError) {
            keeper.ranOut()
            fail("Memory ran out; the smallest plan is used until there is more. Close other apps, or allow less.")
            shrink()
        } catch (error: LinkageError) {
            fail("The engine's libraries do not fit this device (${error.message}); install the app that is for it.")
        } catch (error: Exception) {
            fail("The engine failed (${error.javaClass.simpleName}: ${error.message}); nothing is lost, try again.")
        }
        return null
    }

    private fun shrink() {
        try {
            applyBudget()
        } catch (_: OutOfMemoryError) {
            engine = null // its memory is freed with its last reference; retrying opens it again
        }
    }

    private fun fail(sentence: String?) = holder.update { it.copy(error = sentence) }
}
