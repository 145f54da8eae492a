package dev.pocketspec.models

import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtException
import ai.onnxruntime.OrtLoggingLevel
import ai.onnxruntime.OrtSession
import dev.pocketspec.bundle.PocketspecException
import java.io.File
import java.util.concurrent.atomic.AtomicInteger

/** One way to run levels: with the operators of our own [library], or, without one, with those of ONNX Runtime. */
class Kernels(private val library: File?) {
    /** "native" or "portable", as plans name them. */
    val name: String get() = if (library == null) PORTABLE else NATIVE

    /** What results depend on bit for bit, beside the model. */
    val key: String get() = listOf(name, library?.length(), library?.lastModified(), OrtEnvironment.getEnvironment().version).joinToString()

    /** Options for a session whose operators use [threads] threads; they must be open as long as the session is. */
    fun sessionOptions(folder: File, threads: Int, native: Boolean): OrtSession.SessionOptions {
        val options = OrtSession.SessionOptions()
        try {
            options.setIntraOpNumThreads(threads)
            options.setSessionLogLevel(OrtLoggingLevel.ORT_LOGGING_LEVEL_ERROR)
            // As on the Python side (runtime/kernels/session_options.py): memory that can be predicted, and threads that
            // stop with the forward instead of taking the cores from the next model.
            options.setMemoryPatternOptimization(false)
            options.setCPUArenaAllocator(false)
            options.addConfigEntry("session.force_spinning_stop", "1")
            options.addConfigEntry("session.model_external_initializers_file_folder_path", folder.path)
            if (native) register(options, threads)
            return options
        } catch (error: OrtException) {
            options.close()
            throw PocketspecException("ONNX Runtime refuses the options of a session: ${firstLine(error)}.", error)
        }
    }

    private fun register(options: OrtSession.SessionOptions, threads: Int) {
        val file = checkNotNull(library) { "no native operators" }
        options.addConfigEntry("pocketspec.threads", threads.toString())
        options.addConfigEntry("pocketspec.crew", CREWS.incrementAndGet().toString())
        options.registerCustomOpLibrary(file.path)
    }

    companion object {
        const val NATIVE = "native"
        const val PORTABLE = "portable"

        /** ONNX Runtime's own operators. */
        val ofOnnxRuntime = Kernels(null)

        private val CREWS = AtomicInteger()

        /** The first line of an error's message. */
        internal fun firstLine(error: Exception): String = error.message.orEmpty().trim().lineSequence().first().take(200)
    }
}
