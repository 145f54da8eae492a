package dev.pocketspec.app

import android.content.Context
import dev.pocketspec.Engine
import dev.pocketspec.EngineParts
import dev.pocketspec.RunnableCheck
import dev.pocketspec.bundle.BundleCheck
import dev.pocketspec.bundle.Progress
import dev.pocketspec.chat.ChatEngine
import dev.pocketspec.chat.ChatEngineFactory
import java.io.File

/** Opens bundles on the phone: the arena in shared memory, the native operators from the app's own libraries. */
class PhoneEngines(context: Context) : ChatEngineFactory, BundleCheck by RunnableCheck {
    private val library = File(context.applicationInfo.nativeLibraryDir, "libpocketspec.so")

    override fun open(folder: File, budgetBytes: Long, progress: Progress): ChatEngine =
        Engine.open(folder, budgetBytes, EngineParts(SharedMemoryAllocator(), library), progress)
}
