package dev.pocketspec.app

import android.content.Context
import dev.pocketspec.Engine
import dev.pocketspec.EngineParts
import dev.pocketspec.bundle.Bundle
import dev.pocketspec.bundle.BundleCheck
import dev.pocketspec.bundle.Progress
import dev.pocketspec.chat.ChatEngine
import dev.pocketspec.chat.ChatEngineFactory
import dev.pocketspec.plan.PlanTableReader
import dev.pocketspec.text.TokenizerFile
import java.io.File

/** Opens engines with the app's native operators, in shared memory. */
class PhoneEngines(context: Context) : ChatEngineFactory, BundleCheck {
    private val library = File(context.applicationInfo.nativeLibraryDir, "libpocketspec.so")

    override fun open(folder: File, budgetBytes: Long, progress: Progress): ChatEngine {
        val parts = EngineParts(SharedMemoryAllocator(), library.takeIf { it.isFile })
        return Engine.open(folder, budgetBytes, parts, progress)
    }

    /** Refuses a bundle without plans, and one whose tokenizer the app does not know. */
    override fun check(bundle: Bundle) {
        PlanTableReader.read(bundle)
        TokenizerFile.open(bundle.file("tokenizer.json"))
    }
}
