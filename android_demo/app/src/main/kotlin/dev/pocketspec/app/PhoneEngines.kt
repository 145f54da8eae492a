package dev.pocketspec.app

import android.content.Context
import dev.pocketspec.bundle.Bundle
import dev.pocketspec.bundle.BundleCheck
import dev.pocketspec.bundle.Progress
import dev.pocketspec.chat.ChatEngine
import dev.pocketspec.chat.ChatEngineFactory
import java.io.File

class PhoneEngines(context: Context) : ChatEngineFactory, BundleCheck {
    override fun open(folder: File, budgetBytes: Long, progress: Progress): ChatEngine = TODO()
    override fun check(bundle: Bundle) = Unit
}
