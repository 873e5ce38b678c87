# The time that a package carries: SOURCE_DATE_EPOCH, or that of the sources (the last commit, or what the
# tarball says), never that of the build. Read by cpack before it packs.
if(NOT DEFINED ENV{SOURCE_DATE_EPOCH} OR "$ENV{SOURCE_DATE_EPOCH}" STREQUAL "")
    set(epoch "")
    if(EXISTS ${CPACK_IMFD_SOURCE}/.git)
        execute_process(COMMAND git -C ${CPACK_IMFD_SOURCE} log -1 --format=%ct
            OUTPUT_VARIABLE epoch OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    endif()
    if(NOT epoch MATCHES "^[0-9]+$")
        file(TIMESTAMP ${CPACK_IMFD_SOURCE}/CMakeLists.txt epoch "%s" UTC)
    endif()
    set(ENV{SOURCE_DATE_EPOCH} ${epoch})
endif()
