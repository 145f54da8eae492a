package dev.pocketspec

import org.junit.Assume.assumeTrue
import java.io.File

/** Where tests find what lies outside of the class path. Each function skips the test if it is not there. */
object TestPlaces {
    /** The checkout. */
    val root: File get() = existing(File(System.getProperty("pocketspec.root") ?: "."), "the checkout")

    /** The exported demo bundle, which `make demo` makes; read only. */
    fun demoBundle(): File = existing(File(root, "bundles/demo-int4"), "the demo bundle (make demo)")

    /** The real models beside the checkout. */
    fun sharedModels(): File = existing(File(root, "../shared/data/models"), "../shared/data/models")

    /** The native operators of the Python package. */
    fun kernels(): File = existing(File(System.getProperty("pocketspec.kernels").orEmpty()), "the native operators")

    /** A file of what Python makes of the same bundles, which the commands of android_demo.check write; see the README. */
    fun fixture(name: String): File =
        existing(File(root, "android_demo/build/fixtures/$name"), "$name of android_demo/build/fixtures")

    private fun existing(file: File, what: String): File {
        assumeTrue("$what is not here", file.path.isNotEmpty() && file.exists())
        return file
    }
}
