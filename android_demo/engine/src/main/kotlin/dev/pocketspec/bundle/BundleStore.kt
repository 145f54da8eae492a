package dev.pocketspec.bundle

import java.io.File

/**
 * The bundles in the app's storage: one folder each, in [folder].
 *
 * A folder has its final name only when it is complete. Folders that are being imported, and old ones that are being
 * replaced, have names that begin with a dot; [clean] removes what a process left of them that ended in the middle.
 */
class BundleStore(val folder: File) {
    /** The complete bundles, by name. */
    fun bundles(): List<File> = children().filter { !it.name.startsWith(".") && isBundle(it) }.sortedBy { it.name }

    /** Puts the store in order after the process ended in the middle of something. Not while an import runs. */
    fun clean() {
        for (place in children()) {
            when {
                place.name.startsWith(IMPORT) -> place.deleteRecursively()
                place.name.startsWith(REPLACED) -> {
                    val name = File(folder, place.name.removePrefix(REPLACED))
                    if (name.exists() || !place.renameTo(name)) place.deleteRecursively()
                }
            }
        }
    }

    /** An empty folder to import into; PocketspecException if it cannot be made. */
    internal fun workFolder(): File {
        for (number in 1..MOST_IMPORTS) {
            val work = File(folder, "$IMPORT$number")
            if (!work.exists() && work.mkdirs()) return work
        }
        throw PocketspecException("Nothing can be written to $folder; free some storage and start the app again.")
    }

    /** Gives the complete folder [whole] its final name, in the place of a bundle that has it; the folder then. */
    internal fun put(whole: File, name: String): File {
        val place = File(folder, name)
        val old = File(folder, "$REPLACED$name")
        old.deleteRecursively()
        val isReplaced = place.exists() && place.renameTo(old)
        if (!whole.renameTo(place)) {
            if (isReplaced) old.renameTo(place)
            throw PocketspecException("The bundle cannot be named $name in $folder; free some storage, import again.")
        }
        old.deleteRecursively()
        return place
    }

    private fun children(): List<File> = folder.listFiles().orEmpty().toList()

    private fun isBundle(place: File) = File(place, Manifest.FILE_NAME).isFile

    private companion object {
        const val IMPORT = ".import-"
        const val REPLACED = ".replaced-"
        const val MOST_IMPORTS = 1_000
    }
}
