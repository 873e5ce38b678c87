# Flags against exploitation of what a review missed, and for the same bytes from the same sources.
# Not beside sanitizers, which bring checks of their own and refuse some of these.
if(IMFD_SANITIZE)
    return()
endif()
include(CheckPIESupported)
check_pie_supported(LANGUAGES C)
add_compile_options(
    "$<$<AND:$<COMPILE_LANGUAGE:C>,$<CONFIG:Release,RelWithDebInfo>>:-U_FORTIFY_SOURCE;-D_FORTIFY_SOURCE=2>"
    $<$<COMPILE_LANGUAGE:C>:-fstack-protector-strong>
    $<$<COMPILE_LANGUAGE:C>:-fstack-clash-protection>
    # Names of folders stay out of the binary (assert, debug information).
    $<$<COMPILE_LANGUAGE:C>:-ffile-prefix-map=${PROJECT_SOURCE_DIR}=.>
    $<$<COMPILE_LANGUAGE:C>:-ffile-prefix-map=${PROJECT_BINARY_DIR}=build>)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    add_compile_options($<$<COMPILE_LANGUAGE:C>:-fcf-protection>)
endif()
add_link_options(-Wl,-z,relro -Wl,-z,now -Wl,-z,noexecstack)
