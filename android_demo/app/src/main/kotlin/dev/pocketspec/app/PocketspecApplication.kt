package dev.pocketspec.app

import android.app.Application
import android.os.Handler
import android.os.Looper
import android.os.SystemClock
import dev.pocketspec.bundle.BundleImport
import dev.pocketspec.bundle.BundleSource
import dev.pocketspec.bundle.BundleStore
import dev.pocketspec.chat.BudgetKeeper
import dev.pocketspec.chat.ChatParts
import dev.pocketspec.chat.ChatPresenter
import dev.pocketspec.chat.ConversationFile
import java.io.File

/**
 * Holds the presenter as long as the process lives: turning the screen or leaving it interrupts nothing.
 *
 * Bundles lie in the app's private storage. [pushed] is a folder that `adb push` can write to; what lies there is
 * imported as from anywhere else.
 */
class PocketspecApplication : Application() {
    lateinit var presenter: ChatPresenter
        private set

    private val store by lazy { BundleStore(File(filesDir, "bundles")) }
    private val engines by lazy { PhoneEngines(this) }

    override fun onCreate() {
        super.onCreate()
        val handler = Handler(Looper.getMainLooper())
        val memory = PhoneMemory(this)
        presenter = ChatPresenter(
            ChatParts(
                engines = engines,
                conversation = ConversationFile(File(filesDir, "conversation.json")),
                ui = { action -> handler.post(action) },
                device = memory,
                milliseconds = SystemClock::elapsedRealtime,
                prepare = {
                    store.folder.mkdirs()
                    store.clean()
                    store.bundles().firstOrNull()
                },
            ),
        )
        presenter.start(memory.firstBudget())
    }

    /** The first bundle that `adb push` wrote, null if there is none. */
    fun pushed(): File? = getExternalFilesDir("bundles")?.listFiles()?.sorted()?.firstOrNull { it.isDirectory }

    /** Brings in a bundle from [source], and opens it. */
    fun import(source: BundleSource) = presenter.import { progress ->
        BundleImport(store, engines::check).run(source, progress)
    }

    override fun onTrimMemory(level: Int) {
        super.onTrimMemory(level)
        presenter.trimMemory(level)
    }

    override fun onLowMemory() {
        super.onLowMemory()
        presenter.trimMemory(BudgetKeeper.COMPLETE)
    }
}
