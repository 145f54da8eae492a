package dev.pocketspec.bundle

import java.io.File
import java.io.IOException

/** A folder that `python -m export` wrote, whose [manifest] has been read. */
class Bundle private constructor(val folder: File, val manifest: Manifest) {
    /** A file of the bundle by its path in it. */
    fun file(name: String): File = File(folder, name)

    /** Where results about this bundle on this device are kept. */
    val deviceFolder: File get() = File(folder, Manifest.DEVICE_FOLDER)

    /** PocketspecException if a file is not the exported one; unchanged files are hashed once. */
    fun verify(progress: Progress) = BundleFiles(folder, manifest).verify(progress)

    companion object {
        private const val MOST_MANIFEST = 32L shl 20

        /** The bundle in [folder]; PocketspecException if there is none that this app reads. Files are not hashed. */
        fun read(folder: File): Bundle {
            val file = File(folder, Manifest.FILE_NAME)
            if (!file.isFile) {
                throw PocketspecException("There is no bundle in ${folder.name}: it lacks ${Manifest.FILE_NAME}; import it again.")
            }
            if (file.length() > MOST_MANIFEST) {
                throw PocketspecException("The manifest of ${folder.name} has more than $MOST_MANIFEST bytes; it is not opened.")
            }
            val text = try {
                file.readText()
            } catch (error: IOException) {
                throw PocketspecException("The manifest of ${folder.name} cannot be read (${error.message}).", error)
            }
            return Bundle(folder, ManifestReader.read(text))
        }
    }
}
