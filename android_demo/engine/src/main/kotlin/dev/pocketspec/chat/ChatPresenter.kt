package dev.pocketspec.chat

import dev.pocketspec.bundle.PocketspecException
import java.io.File

/**
 * What the presenter is made of. [milliseconds] is a clock that never goes back. [prepare] puts the stored bundles in
 * order before anything is opened, and returns one to open if the conversation has none.
 */
class ChatParts(
    val engines: ChatEngineFactory,
    val conversation: ConversationFile,
    val ui: UiThread,
    val device: DeviceMemory,
    val milliseconds: () -> Long,
    val prepare: () -> File?,
)

/**
 * The app without its screen: turns what the user does into work for the engine's thread, and shows what comes of it as
 * states. Its functions are called on the screen's thread and never wait.
 *
 * It outlives the screen: one that is turned or left detaches and attaches again. An answer goes on while nobody looks,
 * and is saved as it grows; if the process ends, what was saved comes back, marked as interrupted.
 */
class ChatPresenter(private val parts: ChatParts) {
    private val holder = StateHolder(parts.ui, ChatState())
    private val keeper = BudgetKeeper(parts.device, parts.milliseconds)
    private val saver = ConversationSaver(parts.conversation, holder, parts.milliseconds)
    private val worker = EngineWorker(parts.engines, holder, keeper, saver)
    private val thread = EngineThread()

    /** The state now. */
    val state: ChatState get() = holder.state

    /** Shows the state now and whenever it changes; null when there is no screen. */
    fun attach(view: ((ChatState) -> Unit)?) = holder.attach(view)

    /** Restores what was kept, and opens its bundle; [budgetBytes] is allowed where nothing else was. */
    fun start(budgetBytes: Long) = thread.post {
        val bundle = parts.prepare()
        val kept = try {
            parts.conversation.load()
        } catch (error: PocketspecException) {
            holder.update { it.copy(error = error.message) }
            Conversation()
        }
        val budget = if (kept.budgetBytes > 0) kept.budgetBytes else budgetBytes
        keeper.want(budget)
        holder.update {
            it.copy(messages = kept.messages, speculation = kept.speculation, budgetBytes = budget)
        }
        val folder = kept.bundle?.let(::File)?.takeIf { it.isDirectory } ?: bundle
        val unread = holder.state.error
        if (folder != null) worker.open(folder)
        holder.update { it.copy(error = it.error ?: unread) }
    }

    /** Says [text], and asks for an answer. Nothing while there is no engine, or it works. */
    fun send(text: String) {
        if (text.isBlank() || !state.canSend) return
        answer { it.messages + ShownMessage.ofUser(text) }
    }

    /** Ends the answer, import or opening that runs; what an answer has by then is kept. */
    fun stop() = worker.stop()

    /** Opens once more what could not be opened, or answers the user's last message anew. */
    fun retry() {
        val folder = state.bundle
        if (!state.canRetry) return
        if (state.phase == Phase.NO_BUNDLE && folder != null) return open(File(folder))
        if (!state.canSend) return
        val last = state.messages.indexOfLast { it.role == ShownMessage.USER }
        if (last >= 0) answer { it.messages.subList(0, last + 1).toList() }
    }

    /** Whether answers are to be drafted, from the next on; their tokens are the same. */
    fun setSpeculation(isOn: Boolean) {
        holder.update { it.copy(speculation = isOn) }
        thread.post { quietly { saver.save() } }
    }

    /** Allows [bytes] from now on: the engine plans again between two steps. */
    fun setBudget(bytes: Long) {
        keeper.want(bytes)
        holder.update { it.copy(budgetBytes = bytes, error = null) }
        thread.post { worker.applyBudget() }
    }

    /** Brings in a bundle and opens it. Nothing while the engine works. */
    fun import(importing: Importing) {
        if (state.isBusy) return
        holder.update { it.copy(phase = Phase.IMPORTING, error = null, canRetry = false) }
        give { worker.import(importing) }
    }

    /** Begins a new conversation. */
    fun clear() {
        if (state.phase == Phase.ANSWERING) return
        holder.update { it.copy(messages = emptyList(), statistics = null, error = null, canRetry = false) }
        thread.post { quietly { saver.save() } }
    }

    /** The error was read. */
    fun dismissError() = holder.update { it.copy(error = null) }

    /** The system's `onTrimMemory`. */
    fun trimMemory(level: Int) {
        keeper.trim(level)
        thread.post { worker.applyBudget() }
    }

    /** The screen is seen again: the plan may grow back. */
    fun resume() = thread.post { worker.applyBudget() }

    /** The screen is left for good or for now: what is there is saved. */
    fun save() = thread.post { quietly { saver.save() } }

    /** Ends the answer, saves, and closes the engine. Does not wait. */
    fun close() {
        worker.stop()
        thread.close {
            quietly { saver.save() }
            worker.release()
        }
    }

    private fun answer(messages: (ChatState) -> List<ShownMessage>) {
        val empty = ShownMessage(ShownMessage.ASSISTANT, emptyList())
        holder.update {
            it.copy(
                phase = Phase.ANSWERING,
                messages = messages(it),
                streaming = empty,
                statistics = null,
                error = null,
                canRetry = false,
            )
        }
        give {
            quietly { saver.save() }
            worker.answer()
        }
    }

    private fun open(folder: File) {
        holder.update { it.copy(phase = Phase.OPENING, error = null, canRetry = false) }
        give { worker.open(folder) }
    }

    private fun give(work: () -> Unit) {
        worker.begin()
        thread.post(work)
    }

    /** What cannot be saved now is saved later; the user is told. */
    private fun quietly(action: () -> Unit) = try {
        action()
    } catch (error: PocketspecException) {
        holder.update { it.copy(error = error.message) }
    }
}
